"""A state saved at any step, written to disk and loaded into fresh objects, resumes to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer, assert_same, without_clock

from perdure.backbones.base import Backbone
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.transforms import CropFlip
from perdure.models.derpp import DERpp
from perdure.tracking import events
from perdure.training.optim import SGD
from perdure.training.trainer import Trainer


def end_of(trainer: Trainer) -> dict[str, Any]:
    trainer.fit()
    return without_clock(plain(trainer.state_dict()))


class Dropping(Backbone):
    """A small network with dropout and batch norm, which draw from torch's global generator."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(16, n_classes)
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(784, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
        )

    def features(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


def make(make_trainer: MakeTrainer, few: Arrays, **more: Any) -> Trainer:
    benchmark = ClassIncremental(few, 3, seed=3)
    torch.manual_seed(0)
    network = Dropping(benchmark.shape, benchmark.n_classes)
    return make_trainer(
        lambda _: DERpp(network, 0.5, 0.5),
        benchmark=benchmark,
        epochs=3,
        evaluate_every=1,
        transform=CropFlip(padding=2),
        optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 3),
        **more,
    )


def test_every_checkpoint_leads_to_the_same_end(
    make_trainer: MakeTrainer, few: Arrays, tmp_path: Path
) -> None:
    keep = CheckpointManager(tmp_path, "run", Policy(save=True), Cadence("17 steps"))
    keep._remove = lambda gone: None  # type: ignore[method-assign]
    expected = end_of(make(make_trainer, few, checkpoints=keep))
    paths = [entry.path for entry in entries(tmp_path) if entry.full]
    middles = 0
    assert len(paths) > 10
    for path in paths:
        state = read(path)
        torch.manual_seed(12345)
        resumed = make(make_trainer, few)
        resumed.load_state_dict(state)
        middles += resumed.position.step > 0
        assert_same(end_of(resumed), expected, path.name)
    assert middles > 5


def test_events_continue_without_a_gap(
    make_trainer: MakeTrainer, few: Arrays, tmp_path: Path
) -> None:
    whole = Listener()
    keep = CheckpointManager(tmp_path, "run", Policy(save=True), Cadence("31 steps"))
    keep._remove = lambda gone: None  # type: ignore[method-assign]
    make(make_trainer, few, recorders=[whole], checkpoints=keep).fit()
    path = tmp_path / "step-93_full.pth"
    rest = Listener()
    resumed = make(make_trainer, few, recorders=[rest])
    resumed.load_state_dict(read(path))
    resumed.fit()

    def logged(listener: Listener) -> list[Any]:
        return [
            (e.global_step, e.loss, e.lr) for e in listener.of(events.StepLog) if e.global_step > 93
        ]

    assert logged(rest) == logged(whole)
    assert len(logged(rest)) > 5
    assert [e.task for e in rest.of(events.TaskEnd)] == [
        e.task for e in whole.of(events.TaskEnd) if e.global_step > 93
    ]


@pytest.mark.parametrize("part", ["buffer", "optimizer", "scheduler", "model"])
def test_each_part_matters(
    make_trainer: MakeTrainer, few: Arrays, tmp_path: Path, part: str
) -> None:
    """The comparison notices when a part does not survive."""
    keep = CheckpointManager(tmp_path, "run", Policy(), Cadence("23 steps"))
    keep._remove = lambda gone: None  # type: ignore[method-assign]
    expected = end_of(make(make_trainer, few, checkpoints=keep))
    resumed = make(make_trainer, few)
    state = read(tmp_path / "step-46_full.pth")
    state[part] = plain(resumed.state_dict()[part])
    if part == "buffer":
        state[part] = {**state[part], "seen": state[part]["filled"]}
    resumed.load_state_dict(state)
    with pytest.raises(AssertionError):
        assert_same(end_of(resumed), expected)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"precision": "bf16"}, id="bf16"),
        pytest.param({"precision": "fp16"}, id="fp16-with-its-scaler"),
        pytest.param({"mode": "joint"}, id="joint"),
        pytest.param({"iterations": 50}, id="iterations"),
        pytest.param({"scheduler_per": "step", "clip_norm": 0.5}, id="scheduler-a-step"),
        pytest.param({"reset_optimizer": False}, id="one-optimizer"),
    ],
)
def test_other_ways_to_train_resume_too(
    make_trainer: MakeTrainer, few: Arrays, tmp_path: Path, changes: dict[str, Any]
) -> None:
    keep = CheckpointManager(tmp_path, "run", Policy(), Cadence("41 steps"))
    keep._remove = lambda gone: None  # type: ignore[method-assign]
    expected = end_of(make(make_trainer, few, checkpoints=keep, **changes))
    paths = [entry.path for entry in entries(tmp_path) if entry.full]
    for path in paths:
        resumed = make(make_trainer, few, **changes)
        resumed.load_state_dict(read(path))
        assert_same(end_of(resumed), expected, path.name)
    assert paths
