"""The state of a fork: what is loaded of a checkpoint, converted, or left fresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.config.method_name import method_name
from perdure.config.trust import lookup
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.models.replay import draws_by_group
from perdure.run.fork import LENGTH, Fork
from perdure.run.fork_optimizer import load_optimizer
from perdure.training.replay import Local
from perdure.training.state import Position
from perdure.training.trainer import Trainer

_SIZES = ("buffer.size", "buffer.per_class")


def load_fork(trainer: Trainer, fork: Fork) -> list[str]:
    """Bring `trainer`, freshly built, to where the checkpoint stood; returns what to tell.

    Raises:
        UserError: the state does not fit; names the keys.
    """
    told = list(_told_of_all(trainer, fork))
    state, saved = trainer.state, fork.source.state
    if not fork.is_new_method:
        try:
            trainer.grow_to(fork.position)
            state.load_method(saved["model"])
        except (RuntimeError, KeyError) as error:
            raise fork.misfit(error, "backbone", "model", "dataset") from error
    state.position = _position(trainer, fork)
    if state.position != fork.position:
        told.append(
            f"{fork.shown(*LENGTH)}: task {state.position.task} continues in epoch "
            f"{state.position.epoch} at step {state.position.step}"
        )
    told += load_optimizer(trainer, fork)
    told += _load_scaler(trainer, fork)
    told += _load_buffer(trainer, fork)
    _load_results(trainer, fork)
    return told


def _told_of_all(trainer: Trainer, fork: Fork) -> list[str]:
    told = []
    if fork.position.task >= trainer.n_tasks:
        told.append("all of its tasks are trained already: nothing is trained")
    if fork.changes:
        told.append(f"changed at the fork: {', '.join(map(str, fork.changes))}")
    if fork.changed("seed") and not fork.benchmark:
        seed, dataset = fork.config.seed, fork.config.dataset.seed
        told.append(
            f"seed={seed} is of the training from here on; dataset.seed stays {dataset}, "
            "since it made the tasks that were learned"
        )
    if fork.changed("seed") and fork.position.step:
        told.append(
            f"seed={fork.config.seed}: the rest of this epoch is drawn in another order, so some "
            "of its examples come twice and some not at all"
        )
    if fork.is_new_method:
        name = method_name(fork.config)
        told.append(f"model={name}: takes over the network; the method's own state starts afresh")
    return told


def _position(trainer: Trainer, fork: Fork) -> Position:
    """The position in batches and epochs of the fork: after as many examples, or steps."""
    at, changed = fork.position, fork.changed(*LENGTH)
    if at.task_begins or not changed:
        return at
    if at.phase:
        raise UserError(
            f"{fork.shown(*LENGTH)}: {fork.source.path} stands within phase {at.phase} of task "
            f"{at.task}, and how long the phases before it took is fixed; fork a checkpoint of a "
            "task's end"
        )
    dataset, benchmark = fork.config.dataset, trainer.benchmark
    joint = trainer.settings.joint
    n = len((benchmark.joint() if joint else benchmark.train(at.task)).y)
    before = max(1, int(lookup(fork.source.config.args, "dataset.batch_size")[0]))
    per_epoch = -(-n // dataset.batch_size)
    if dataset.iterations:
        done = at.epoch * -(-n // before) + at.step
        epoch, step = divmod(done, per_epoch)
    else:
        epoch, step = at.epoch, at.step * before // dataset.batch_size
        if step >= per_epoch:
            epoch, step = epoch + 1, 0
    total = dataset.iterations or trainer.settings.epochs_of(at.task) * per_epoch
    if epoch * per_epoch + step > total:
        raise UserError(
            f"{fork.shown(*LENGTH)}: {fork.source.path} has trained task {at.task} for longer "
            f"already (epoch {epoch}, step {step}); choose more, or fork a checkpoint of a "
            "task's end"
        )
    return Position(at.task, epoch, step, at.global_step)


def _load_scaler(trainer: Trainer, fork: Fork) -> list[str]:
    scaler, saved = trainer.state.scaler, fork.source.state["scaler"]
    if scaler is None:
        return []
    if saved is None:
        return [f"{fork.shown('training.precision')}: the scale of the loss starts afresh"]
    scaler.load_state_dict(saved)
    return []


def _load_buffer(trainer: Trainer, fork: Fork) -> list[str]:
    replay, saved = trainer.state.replay, fork.source.state["buffer"]
    if replay is None:
        return []
    named = fork.shown(
        "model.name", "addon.name", "buffer._target_", *_SIZES, "training.replay_sync"
    )
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
        return [f"{named or fork.shown('dataset')}: the buffer starts empty, since {missing}"]
    wanted = {"raw", "y", *trainer.method.stored_fields, *["task"] * replay.buffer.track_tasks}
    fields = {key: value for key, value in saved["fields"].items() if key in wanted}
    saved = {**saved, "fields": fields}
    buffer = replay.buffer
    if not fork.changed("buffer._target_", *_SIZES) and buffer.policy.fits(saved):
        replay.load_state_dict(saved, trainer.state.device)
        return []
    generator = replay.streams.numpy("fork", task=fork.position.task)
    buffer.adopt(saved, generator, trainer.state.device)
    what = named or fork.shown("dataset")
    return [f"{what}: the buffer takes over {len(buffer)} of {saved['filled']} examples"]


def _load_results(trainer: Trainer, fork: Fork) -> None:
    saved = fork.source.state["results"]
    measured, results = saved["measured"], trainer.state.results
    before, now = measured["counts"]["correct"], results.counts.names
    if before.keys() != set(now):
        raise UserError(
            f"{fork.shown('dataset.scenario')}: the learned tasks were measured as "
            f"{', '.join(before)}, those of this benchmark are as "
            f"{', '.join(now)}; start from the weights alone (best.pth)"
        )
    trainer.state.load_results(saved)


def _missing_fields(method: Method, shape: tuple[int, int, int], saved: Mapping[str, Any]) -> str:
    """Why the method cannot replay what the buffer holds; empty where it can."""
    fields = saved["fields"]
    needed = [*method.stored_fields, *["task"] * draws_by_group(method)]
    missing = [key for key in dict.fromkeys(needed) if key not in fields]
    if fields and missing:
        return f"{type(method).__name__} needs {', '.join(missing)} of each example"
    if fields and tuple(fields["raw"].shape[1:]) != tuple(shape):
        return f"its examples are of shape {tuple(fields['raw'].shape[1:])}, not {tuple(shape)}"
    return ""
