"""Bit-exactness of training: resume from any saved state, purity of the loss, neutral measuring."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from perdure.training.state import Position, SaveContext, SavedCheckpoint
from perdure.training.trainer import Trainer

_PARTS = ("model", "optimizer", "main_optimizer", "buffer")


class Trial(Protocol):
    """Makes trainers that differ in nothing but what is asked for."""

    def trainer(self, checkpoints: Saved | None = None, **changes: Any) -> Trainer:
        """A fresh trainer.

        Args:
            checkpoints: gets the state at every step.
            changes: of the training settings.
        """


@dataclass
class Saved:
    """Keeps the state at every step as a checkpoint file would hold it.

    Attributes:
        states: the positions, and what a file would hold.
        ended: the number of each task that has ended, and the place of its state in `states`.
        watch: called whenever a state is there to be saved.
    """

    states: list[tuple[Position, bytes]] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)
    watch: Callable[[SaveContext], None] = lambda context: None

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        if context.ended is not None:
            self.ended[context.ended] = len(self.states)
        self.states.append((Position(**context.position.as_dict()), file.getvalue()))
        self.watch(context)

    def step_due(self, position: Position) -> bool:
        return True

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None: ...

    def finish(self) -> None: ...

    def state(self, number: int) -> dict[str, Any]:
        """The `number`-th state, as it would be loaded."""
        loaded: dict[str, Any] = torch.load(io.BytesIO(self.states[number][1]), weights_only=True)
        return loaded


def end(trainer: Trainer) -> dict[str, Any]:
    """Train to the end; what must be the same however often the run was interrupted."""
    results = trainer.fit()
    return {"accuracy_matrix": results["accuracy_matrix"], **kept(trainer.state_dict())}


def kept(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a training state follows from the training alone, without clocks."""
    return {key: state[key] for key in _PARTS if key in state}


def require_exact_resumes(
    trial: Trial, shards: int, chosen: Callable[[int], Sequence[int]]
) -> list[str]:
    """Train with every batch in `shards` parts, and again from states that were saved on the way.

    Args:
        trial: makes the trainers.
        shards: parts of a batch.
        chosen: which of so many states, in order, to resume from.

    Returns:
        The positions that it was resumed from, in words.

    Raises:
        AssertionError: the end of a resumed run is another one.
    """
    saved = Saved()
    whole, places = end(trial.trainer(saved, shards=shards)), []
    for number in chosen(len(saved.states) - 1):
        position, _ = saved.states[number]
        torch.manual_seed(number)  # what is drawn must not follow from what was drawn before
        trainer = trial.trainer(shards=shards)
        trainer.load_state_dict(saved.state(number))
        at = f"task {position.task}, phase {position.phase}, epoch {position.epoch}"
        places.append(f"{at}, step {position.step}")
        require_same(end(trainer), whole, f"shards={shards}, resumed at {places[-1]}")
    return places


def require_pure_loss(trial: Trial) -> None:
    """Train, and see that `loss` writes nothing that a checkpoint holds.

    Statistics of batch norm within networks are the trainer's affair.

    Raises:
        AssertionError: it does.
    """
    trainer = trial.trainer()
    method, loss = trainer.method, trainer.method.loss

    def watched(*batches: Any) -> Any:
        networks = {
            f"{name}.{key}"
            for name, net in method.named_children()
            for key, _ in net.named_buffers()
        }
        before = {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in method.state_dict().items()
        }
        output = loss(*batches)
        for key, value in method.state_dict().items():
            if key not in networks and list(differences(value, before[key], "")):
                raise AssertionError(
                    f"loss changed {key}; return what belongs to each example as rows or remember, "
                    "and change state in after_step"
                )
        return output

    object.__setattr__(method, "loss", watched)
    trainer.fit()


def require_neutral_measuring(trial: Trial) -> None:
    """Train twice, once measuring after every epoch.

    Raises:
        AssertionError: the ends are not the same.
    """
    often = trial.trainer(evaluate_every=1)
    require_same(end(often), end(trial.trainer()), "evaluated after every epoch")


def require_same(found: Any, expected: Any, where: str) -> None:
    """Raises AssertionError, with the first difference, if two states are not the same."""
    for path in differences(found, expected, ""):
        raise AssertionError(f"{where}: {path.removeprefix('.')} differs from the whole run's")


def differences(a: Any, b: Any, path: str) -> Iterator[str]:
    """Where two nested values are not the same to the bit."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            yield path
        for key in a.keys() & b.keys():
            yield from differences(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{path}[{i}]")
    elif isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            yield path
    elif a != b:
        yield path
