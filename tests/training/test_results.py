"""What the buffer holds of each class at each task's end: counted, saved, resumed."""

from __future__ import annotations

from typing import Any

import torch
from kit import MakeTrainer
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.core.encode import plain
from perdure.distributed.process_group import Ranks
from perdure.models.er import ER
from perdure.randomness import Streams
from perdure.tracking.events import Recorder, TaskEnd
from perdure.training.replay import Local, Replicated
from perdure.training.results import Results


class Held(Recorder):
    """The labels in the buffer whenever a task ends."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []
        self.trainer: Any = None

    def on_task_end(self, event: TaskEnd) -> None:
        self.labels.append(self.trainer.state.buffer.contents()["y"].clone())


def make(make_trainer: MakeTrainer, recorder: Recorder | None = None) -> Any:
    trainer: Any = make_trainer(ER, recorders=[recorder] if recorder else [])
    names = [str(label) for label in range(trainer.benchmark.n_classes)]
    trainer.state.results.facts["class_names"] = names
    return trainer


def test_each_task_s_end_counts_what_is_held(make_trainer: MakeTrainer) -> None:
    held = Held()
    held.trainer = make(make_trainer, held)
    results = held.trainer.fit()
    assert len(held.labels) == held.trainer.n_tasks > 1
    for counts, labels in zip(results["buffer_classes"], held.labels, strict=True):
        assert counts == [int((labels == c).sum()) for c in range(len(counts))]
        assert sum(counts) == len(labels) > 0


def test_the_counts_survive_in_a_checkpoint(make_trainer: MakeTrainer) -> None:
    trainer = make(make_trainer)
    expected = trainer.fit()["buffer_classes"]
    resumed = make(make_trainer)
    resumed.load_state_dict(plain(trainer.state_dict()))
    assert resumed.state.results.summary()["buffer_classes"] == expected


def test_a_checkpoint_of_an_earlier_version_has_none() -> None:
    results = Results(("class_il",), 2, {})
    old = {key: value for key, value in results.state_dict().items() if key != "held"}
    results.held = {0: [1]}
    results.load_state_dict(old)
    assert results.summary()["buffer_classes"] is None
    results.held[1] = [2, 3]
    assert results.summary()["buffer_classes"] == [None, [2, 3]]


def test_an_empty_buffer_and_one_in_parts() -> None:
    method = ER(MLP((1, 2, 2), 3, (3,)))
    whole = Replicated(Buffer(Reservoir(10, 4)), method, Streams(0), 4)
    assert whole.held_by_class(3) == [0, 0, 0]
    y = torch.tensor([2, 0, 2, 2])
    fields = {"raw": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "y": y}
    part = Local(Buffer(Reservoir(10, 4)), method, Streams(0), 4, Ranks(), 1)
    for replay in (whole, part):
        replay.add(fields, {}, y.numpy(), {"step": 0})
        assert replay.held_by_class(3) == [1, 0, 3]
