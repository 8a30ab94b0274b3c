"""Forks: what a run with other settings takes over of a checkpoint, and what starts afresh.

docs/forks.md has the table. What was learned fixes the benchmark; the network is always taken over;
the rest is where it can be, and the user is told of what cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import pad

from perdure.config.compare import BENCHMARK, Change, changes, is_within
from perdure.config.schema import Config, Mode
from perdure.config.trust import location_keys, lookup
from perdure.config.typed import as_plain
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.run.fork_optimizer import load_optimizer
from perdure.run.resume import RestorePoint
from perdure.training.replay import Local
from perdure.training.state import Position
from perdure.training.trainer import Trainer

_LENGTH = ("dataset.epochs", "dataset.iterations", "dataset.batch_size")
_BACKBONE = "backbone."


class Fork:
    """A run that starts from the state of another, with settings of its own.

    Args:
        config: the fork's configuration.
        source: the checkpoint.

    Attributes:
        changes: what is another than in the checkpoint's configuration.
        position: where the checkpoint stands.

    Raises:
        UserError: a change makes no sense with what has been learned; names the keys.
    """

    def __init__(self, config: Config, source: RestorePoint) -> None:
        self.config = config
        self.source = source
        self.changes = changes(as_plain(config), source.config.args)
        self.position = _position_of(source)
        self._check_benchmark()
        self._check_method()
        self._check_tasks()

    def changed(self, *keys: str) -> list[Change]:
        """What is another among `keys` and below them."""
        return [change for change in self.changes if is_within(change.key, keys)]

    def shown(self, *keys: str) -> str:
        """The same, for people."""
        return ", ".join(map(str, self.changed(*keys)))

    @cached_property
    def benchmark(self) -> list[Change]:
        """What of the benchmark is another.

        A key that the configuration did not have yet is none; where data lie may differ.
        """
        known = self.source.config.args.get("dataset", {})
        places = set(location_keys({"dataset": as_plain(self.config)["dataset"]}))
        return [
            change
            for change in self.changed(*BENCHMARK)
            if change.key.split(".")[1] in known and change.key not in places
        ]

    @property
    def is_new_method(self) -> bool:
        """Whether the method is of another class."""
        return bool(self.changed("model._target_"))

    @property
    def backbone_weights(self) -> dict[str, Any] | None:
        """What another method is built around: the backbone of the checkpoint; None otherwise."""
        if not self.is_new_method:
            return None
        return {
            name.removeprefix(_BACKBONE): value
            for name, value in self.source.state["model"].items()
            if name.startswith(_BACKBONE)
        }

    def misfit(self, error: Exception, *keys: str) -> UserError:
        """The state does not fit, which the changed `keys` explain, or else all that changed."""
        shown = self.shown(*keys) or ", ".join(map(str, self.changes)) or "this version"
        reason = str(error).splitlines()[-1].strip()
        return UserError(
            f"{shown}: the state in {self.source.path} does not fit ({reason}); leave it as it was"
        )

    def marks(self) -> list[dict[str, Any]]:
        """What results.json says of another benchmark: from which task on, and how it differs."""
        if not self.benchmark:
            return []
        return [{"task": self.position.task, "changed": list(map(str, self.benchmark))}]

    # --- what is refused ----------------------------------------------------------------------

    def _check_benchmark(self) -> None:
        if not self.benchmark:
            return
        listed = ", ".join(map(str, self.benchmark))
        learned, path = self._learned(), self.source.path
        if not self.config.checkpoint.other_benchmark:
            raise UserError(
                f"{listed}: {path} has learned {learned} of another benchmark; leave these as "
                "they were, start from its weights alone (best.pth), or add "
                "checkpoint.other_benchmark=true, and the results are marked"
            )
        if not self.position.task_begins:
            raise UserError(
                f"{listed}: {path} stands within task {self.position.task}; another benchmark can "
                "begin with a task only, so fork a checkpoint of a task's end"
            )

    def _check_method(self) -> None:
        if mode := self.shown("training.mode"):
            raise UserError(
                f"{mode}: {self.source.path} is of a run in the other mode; a fork keeps the mode"
            )
        if self.is_new_method and not self.position.task_begins:
            raise UserError(
                f"{self.shown('model.name', 'model._target_')}: {self.source.path} stands within "
                f"task {self.position.task}; another method can begin with a task only, so fork a "
                "checkpoint of a task's end"
            )

    def _check_tasks(self) -> None:
        if self.config.training.mode is Mode.joint:
            return
        started = self.position.task + (not self.position.task_begins)
        for key in ("n_tasks", "stop_after"):
            n = getattr(self.config.dataset, key)
            if n is not None and n < started:
                raise UserError(
                    f"dataset.{key}={n}: {self.source.path} has learned {self._learned()}; must be "
                    f"{started} or more"
                )

    def _n_tasks(self) -> int:
        dataset = self.config.dataset
        is_joint = self.config.training.mode is Mode.joint
        return 1 if is_joint else dataset.stop_after or dataset.n_tasks

    def _learned(self) -> str:
        task, ended = self.position.task, self.position.task_begins
        if ended and task <= 1:
            return "task 0"
        return f"tasks 0 to {task - ended}" if task else "a part of task 0"

    # --- what is taken over -------------------------------------------------------------------

    def load(self, trainer: Trainer) -> list[str]:
        """Bring `trainer`, freshly built, to where the checkpoint stood; returns what to tell.

        Raises:
            UserError: the state does not fit; names the keys.
        """
        told = list(self._told_of_all())
        state, saved = trainer.state, self.source.state
        if not self.is_new_method:
            try:
                state.load_method(saved["model"])
            except (RuntimeError, KeyError) as error:
                raise self.misfit(error, "backbone", "model", "dataset") from error
        state.position = self._position(trainer)
        if state.position != self.position:
            told.append(
                f"{self.shown(*_LENGTH)}: task {state.position.task} continues in epoch "
                f"{state.position.epoch} at step {state.position.step}"
            )
        told += load_optimizer(trainer, self)
        told += self._load_scaler(trainer)
        told += self._load_buffer(trainer)
        self._load_results(trainer)
        return told

    def _told_of_all(self) -> list[str]:
        told = []
        if self.position.task >= self._n_tasks():
            told.append("all of its tasks are trained already: nothing is trained")
        if self.changes:
            told.append(f"changed at the fork: {', '.join(map(str, self.changes))}")
        if self.changed("seed") and not self.benchmark:
            seed, dataset = self.config.seed, self.config.dataset.seed
            told.append(
                f"seed={seed} is of the training from here on; dataset.seed stays {dataset}, "
                "since it made the tasks that were learned"
            )
        if self.is_new_method:
            name = self.config.model["name"]
            told.append(
                f"model={name}: takes over the network; the method's own state starts afresh"
            )
        return told

    def _position(self, trainer: Trainer) -> Position:
        """The position in batches and epochs of the fork: after as many examples, or steps."""
        at, changed = self.position, self.changed(*_LENGTH)
        if at.task_begins or not changed:
            return at
        dataset, benchmark = self.config.dataset, trainer.benchmark
        joint = trainer.settings.joint
        n = len((benchmark.joint() if joint else benchmark.train(at.task)).y)
        before = max(1, int(lookup(self.source.config.args, "dataset.batch_size")[0]))
        per_epoch = -(-n // dataset.batch_size)
        if dataset.iterations:
            done = at.epoch * -(-n // before) + at.step
            epoch, step = divmod(done, per_epoch)
        else:
            epoch, step = at.epoch, at.step * before // dataset.batch_size
            if step >= per_epoch:
                epoch, step = epoch + 1, 0
        total = dataset.iterations or dataset.epochs * per_epoch
        if epoch * per_epoch + step > total:
            raise UserError(
                f"{self.shown(*_LENGTH)}: {self.source.path} has trained task {at.task} for longer "
                f"already (epoch {epoch}, step {step}); choose more, or fork a checkpoint of a "
                "task's end"
            )
        return Position(at.task, epoch, step, at.global_step)

    def _load_scaler(self, trainer: Trainer) -> list[str]:
        scaler, saved = trainer.state.scaler, self.source.state["scaler"]
        if scaler is None:
            return []
        if saved is None:
            return [f"{self.shown('training.precision')}: the scale of the loss starts afresh"]
        scaler.load_state_dict(saved)
        return []

    def _load_buffer(self, trainer: Trainer) -> list[str]:
        replay, saved = trainer.state.replay, self.source.state["buffer"]
        if replay is None:
            return []
        named = self.shown("model.name", "buffer._target_", "buffer.size", "training.replay_sync")
        if saved is None:
            return [f"{named}: the buffer starts empty"]
        if isinstance(replay, Local) or "parts" in saved:
            if named:
                raise UserError(
                    f"{named}: with training.replay_sync=local a fork keeps method and buffer"
                )
            replay.load_state_dict(saved, trainer.state.device)
            return []
        missing = _missing_fields(trainer.method, trainer.benchmark.shape, saved)
        if missing:
            return [f"{named or self.shown('dataset')}: the buffer starts empty, since {missing}"]
        wanted = {"raw", "y", *trainer.method.stored_fields}
        fields = {key: value for key, value in saved["fields"].items() if key in wanted}
        saved = {**saved, "fields": fields}
        if not self.changed("buffer._target_", "buffer.size"):
            replay.load_state_dict(saved, trainer.state.device)
            return []
        generator = replay.streams.numpy("fork", task=self.position.task)
        replay.buffer.adopt(saved, generator, trainer.state.device)
        n, before = len(replay.buffer), saved["filled"]
        return [f"{named}: the buffer takes over {n} of {before} examples"]

    def _load_results(self, trainer: Trainer) -> None:
        saved = self.source.state["results"]
        measured, results = saved["measured"], trainer.state.results
        if measured["metrics"].keys() != results.metrics.keys():
            raise UserError(
                f"{self.shown('dataset.scenario')}: the learned tasks were measured as "
                f"{', '.join(measured['metrics'])}, those of this benchmark are as "
                f"{', '.join(results.metrics)}; start from the weights alone (best.pth)"
            )
        if self.changed("dataset.n_tasks"):
            n_tasks = trainer.benchmark.n_tasks
            metrics = {
                name: {key: _columns(value, n_tasks) for key, value in counts.items()}
                for name, counts in measured["metrics"].items()
            }
            saved = {**saved, "measured": {**measured, "metrics": metrics}}
        trainer.state.load_results(saved)


def _position_of(source: RestorePoint) -> Position:
    found = source.state.get("position")
    names = vars(Position())
    if not isinstance(found, Mapping) or found.keys() != names.keys():
        raise UserError(f"{source.path}: damaged (it holds no position)")
    if not all(isinstance(value, int) and value >= 0 for value in found.values()):
        raise UserError(f"{source.path}: damaged (its position is {dict(found)})")
    return Position(**found)


def _missing_fields(method: Method, shape: tuple[int, int, int], saved: Mapping[str, Any]) -> str:
    """Why the method cannot replay what the buffer holds; empty where it can."""
    fields = saved["fields"]
    missing = [key for key in method.stored_fields if key not in fields]
    if fields and missing:
        return f"{type(method).__name__} needs {', '.join(missing)} of each example"
    if fields and tuple(fields["raw"].shape[1:]) != tuple(shape):
        return f"its examples are of shape {tuple(fields['raw'].shape[1:])}, not {tuple(shape)}"
    return ""


def _columns(counts: torch.Tensor, n_tasks: int) -> torch.Tensor:
    """Counts [E, T] for another number of tasks; whatever has no tasks as it is."""
    return pad(counts, (0, n_tasks - counts.shape[1])) if counts.ndim == 2 else counts
