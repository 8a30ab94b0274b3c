"""GDumb: a balanced memory, and a network trained on nothing else, anew at each task's end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.greedy_balanced import GreedyBalanced
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.models.base import Data
from perdure.models.cutmix import mix
from perdure.models.gdumb import GDumb
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "lr_min": 0.0005,
    "cutmix": 0.5,
    "clip_norm": 10.0,
}


class Watched(GDumb):
    """Notes what each task is trained on, from which weights, at which rates."""

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        super().before_phase(phase, data, memory)
        notes = self.__dict__.setdefault("notes", {})
        notes[self.task.index] = {
            "start": {key: v.clone() for key, v in self.backbone.state_dict().items()},
            "memory": Counter(memory.split()[1].tolist()),
            "rates": [],
            "drawn": [],
        }

    def loss(self, batch: Batch, *replay: Batch) -> Any:
        note = self.__dict__["notes"][self.task.index]
        note["drawn"] += batch.y.tolist()
        if self.task.step == 0:
            note["rates"].append(self.lr)
        assert batch.scope == self.task.seen
        return super().loss(batch, *replay)


def run(tiny: Arrays, **settings: Any) -> tuple[Watched, dict[str, Any]]:
    torch.manual_seed(0)
    method = Watched(MLP((1, 28, 28), 10, (12,)), **OPTIONS)
    options = Settings(**{"batch_size": 10, **settings})
    trainer = Trainer(
        method, ClassIncremental(tiny, 5), options, buffer=Buffer(GreedyBalanced(45, 10))
    )
    return method, trainer.fit()


def test_each_task_s_end_trains_the_first_network_on_a_balanced_memory(tiny: Arrays) -> None:
    method, results = run(tiny)
    notes = method.__dict__["notes"]
    first = notes[0]["start"]
    assert set(notes) == set(range(5))
    for task, note in notes.items():
        assert all(torch.equal(note["start"][key], first[key]) for key in first), "from scratch"
        counts = note["memory"]
        assert sum(counts.values()) == 45
        assert set(counts) == set(range(2 * task + 2))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert Counter(note["drawn"]) == {c: 3 * n for c, n in counts.items()}, "of it alone"
        # Cosine cycles of 1 and 2 epochs: 0.1, then 0.1 and half way down.
        middle = 0.0005 + (0.1 - 0.0005) / 2
        assert note["rates"] == pytest.approx([0.1, 0.1, middle])
    matrix = results["accuracy_matrix"]["task_il"]
    assert all(min(row[: task + 1]) > 0.5 for task, row in enumerate(matrix))


def test_only_a_task_that_is_evaluated_is_trained_and_nothing_else_changes(tiny: Arrays) -> None:
    """Each task's network follows from the memory alone, whatever was trained before."""
    every, all_results = run(tiny)
    some, results = run(tiny, evaluate_every_task=3)
    notes, fewer = every.__dict__["notes"], some.__dict__["notes"]
    assert set(fewer) == {2, 4}
    assert all(fewer[task]["memory"] == notes[task]["memory"] for task in fewer)
    assert (
        results["accuracy_matrix"]["class_il"][4] == all_results["accuracy_matrix"]["class_il"][4]
    )
    for key, value in every.backbone.state_dict().items():
        assert torch.equal(value, some.backbone.state_dict()[key])


def test_labels_are_mixed_as_the_images_are(make: Callable[..., Any], digits: Digits) -> None:
    method, batch = make(GDumb, **{**OPTIONS, "cutmix": 1.0}), digits(0, 9, 0, 1, 2, 3)
    batch.scopes = ((9, range(4)),)
    torch.manual_seed(7)
    ours: Tensor = method.loss(batch)
    torch.manual_seed(7)
    torch.rand(1)
    other = torch.randperm(9)
    x, share = mix(batch.x, other, *torch.rand(3).tolist())
    log_p = method(x)[:, :4].log_softmax(1)
    target = share * F.one_hot(batch.y, 4) + (1 - share) * F.one_hot(batch.y[other], 4)
    assert 0 < share < 1
    torch.testing.assert_close(ours, -(target * log_p).sum(1).mean())
    method.cutmix = 0.0
    torch.testing.assert_close(method.loss(batch), F.cross_entropy(method(batch.x)[:, :4], batch.y))


def test_resumes_and_splits() -> None:
    check_method(GDumb, OPTIONS, buffer=lambda: GreedyBalanced(40, 10))
    options = {**OPTIONS, "epochs": 1}
    settings = {"evaluate_every_task": 2}
    check_method(
        GDumb, options, buffer=lambda: GreedyBalanced(40, 10), settings=settings, shards=(1,)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", 0), ("batch_size", 0), ("cutmix", 1.5), ("lr_min", -1.0), ("clip_norm", 0.0)],
)
def test_values_that_make_no_sense_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}={value}\b"):
        GDumb(MLP((1, 28, 28), 10, (12,)), **{**OPTIONS, key: value})
