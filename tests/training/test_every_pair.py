"""For every method and buffer of the repository: a saved and resumed run equals one in one go."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kit import assert_same, without_clock

from perdure.checkpoint.core.encode import plain
from perdure.config.compose import compose
from perdure.config.folder import CONF
from perdure.config.typed import typed
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.models.replay import uses_buffer
from perdure.run.assemble import make_buffer, make_method, settings
from perdure.run.method_checks import method_class
from perdure.training.optim import OptimizerFactory
from perdure.training.recording import Recording
from perdure.training.state import Position, SaveContext, SavedCheckpoint
from perdure.training.trainer import Trainer

SMALL = (
    "dataset.n_tasks=3", "dataset.stop_after=2", "dataset.iterations=9", "backbone=mlp",
    "backbone.hidden=[12]", "buffer.size=20", "optimizer.momentum=0.9",
)  # fmt: skip
METHODS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
BUFFERS = sorted({path.stem for path in (CONF / "buffer").glob("*.yaml")} - {"none"})


class InMemory:
    """Keeps the state at one global step, as the plain data that a file would hold."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.state: dict[str, Any] = {}

    def step_due(self, position: Position) -> bool:
        return position.global_step == self.at

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        if context.position.global_step == self.at:
            self.state = plain(state)

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None: ...

    def finish(self) -> None: ...


def end_of(trainer: Trainer) -> Any:
    trainer.fit()
    return without_clock(plain(trainer.state_dict()))


def pairs() -> Iterator[Any]:
    """Each method with a plain policy, and each policy with ER and DER++; the rest on demand."""
    for model, buffer in itertools.product(METHODS, BUFFERS):
        is_one_of_each = buffer == "reservoir" or model in ("er", "derpp")
        marks = [] if is_one_of_each else [pytest.mark.exhaustive]
        yield pytest.param(model, buffer, marks=marks)


@pytest.mark.parametrize(("model", "buffer"), list(pairs()))
def test_resuming_from_a_saved_state_changes_no_bit(model: str, buffer: str, tiny: Arrays) -> None:
    config = compose(f"model={model}", f"buffer={buffer}", *SMALL)
    typed_config = typed(config)
    if not uses_buffer(method_class(typed_config)) and buffer != "reservoir":
        pytest.skip("the method keeps no buffer")
    lr = typed_config.optimizer["lr"]
    momentum = 0.0 if method_class(typed_config).plain_sgd else 0.9

    def trainer(keep: InMemory | None = None) -> Trainer:
        benchmark = ClassIncremental(tiny, 3, seed=1)
        return Trainer(
            make_method(typed_config, benchmark, torch.device("cpu")),
            benchmark,
            settings(typed_config),
            OptimizerFactory(lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum)),
            buffer=make_buffer(typed_config, benchmark),
            recording=Recording(checkpoints=keep),
        )

    for at in (4, 9, 14):
        keep = InMemory(at)
        calm = trainer(keep)
        expected = end_of(calm)
        if calm.state.buffer is not None:
            held = set(calm.state.buffer.contents())
            task = {"task"} if calm.state.buffer.track_tasks else set()
            assert {"raw", "y", *calm.method.stored_fields} | task == held
        resumed = trainer()
        torch.manual_seed(at)
        resumed.load_state_dict(keep.state)
        assert_same(end_of(resumed), expected, f"saved at step {at}")
