"""iCaRL: sigmoids with distillation, herded exemplars, the nearest of their means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import Linear
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.config.schema import LossScope
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.scenarios import ClassIncremental, Scenario
from perdure.datasets.transforms import Scale
from perdure.models.icarl import ICaRL
from perdure.models.memory import Memory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]


def moved(method: ICaRL) -> ICaRL:
    """With a network other than its teacher."""
    method.grow(method.task)
    with torch.no_grad():
        for p in method.trainable():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return method


@pytest.mark.parametrize("scope", ["full", "seen"])
@pytest.mark.parametrize("task", [0, 2], ids=["first task", "third task"])
def test_loss_is_the_paper_s(
    make: Callable[..., Any], digits: Digits, task: int, scope: str
) -> None:
    """Alg. 3 with probabilities and logarithms, example by example and class by class."""
    method, n = moved(make(ICaRL, task=task)), 10 if scope == "full" else 2 * task + 2
    batch = digits(0, 12, *range(2 * task + 2))
    batch.scopes = ((12, None if scope == "full" else range(n)),)
    g, q = method(batch.x).double().sigmoid(), method.old(batch.x).double().sigmoid()
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(batch.y.tolist()):
        for y in range(n):
            target = q[i, y] if y < 2 * task else float(y == label)
            total = total - target * g[i, y].log() - (1 - target) * (1 - g[i, y]).log()
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    torch.testing.assert_close(ours.double(), total / (12 * n), rtol=1e-5, atol=1e-6)
    ours.backward()
    assert all(p.grad is None for p in method.old.parameters())
    later = method.backbone.head.weight.grad[2 * task + 2 :]
    assert bool(later.any()) == (scope == "full"), "later classes have the target 0, or none"


def memory_of(batch: Batch) -> Memory:
    """The examples in a buffer, in their order."""
    buffer = Buffer(Herding(len(batch), 10))
    features = batch.x.flatten(1)
    uniforms: Any = None  # herding draws nothing
    buffer.track_tasks = True
    fields = {"raw": batch.raw, "y": batch.y}
    buffer.add(fields, batch.y.numpy(), uniforms, info={"features": features})
    return Memory(buffer, Scale())


def nearest(method: ICaRL, memory: Batch, x: Tensor, mirror: bool) -> list[int]:
    """Alg. 1, one example and one class at a time."""

    def phi(image: Tensor) -> Tensor:
        f = method.backbone.features(image[None])[0].double()
        return f / f.norm()

    means: dict[int, Tensor] = {}
    for label in sorted(set(memory.y.tolist())):
        own = [image for image, y in zip(memory.x, memory.y.tolist(), strict=True) if y == label]
        images = own + ([image.flip(2) for image in own] if mirror else [])
        mean = sum(phi(image) for image in images) / len(images)
        means[label] = mean / mean.norm()
    centers = torch.stack(list(means.values()))
    return [list(means)[int((centers - phi(image)).norm(dim=1).argmin())] for image in x]


@pytest.mark.parametrize("mirror", [False, True], ids=["as they are", "mirrored"])
@torch.no_grad()
def test_prediction_is_the_nearest_mean_whatever_the_head(
    make: Callable[..., Any], digits: Digits, mirror: bool
) -> None:
    method = make(ICaRL, task=1, mirror=mirror).eval()
    held = digits(0, 40, 0, 1, 2, 3)
    memory, x = memory_of(held), digits(40, 140, 0, 1, 2, 3).x
    sizes = Counter(b for batch in memory.batches(7) for b in batch.y.tolist())
    assert set(sizes) == {0, 1, 2, 3}
    stored = next(iter(memory.batches(100)))
    method.before_evaluation(memory, lambda n: [digits(200, 220, 2, 3)])
    scores = method.predict(x)
    assert scores.argmax(1).tolist() == nearest(method, stored, x, mirror)
    assert (scores[:, 4:] < -1000).all(), "classes of which nothing is known"
    method.backbone.head.weight.normal_()
    method.before_evaluation(memory, lambda n: [digits(200, 220, 2, 3)])
    assert torch.equal(method.predict(x), scores)


@torch.no_grad()
def test_a_class_without_exemplars_has_the_mean_of_the_task_s_examples(
    make: Callable[..., Any], digits: Digits
) -> None:
    method, new = make(ICaRL, task=1).eval(), digits(0, 50, 2, 3)
    method.before_evaluation(memory_of(digits(0, 20, 0, 1)), lambda n: [new.part(0, 50)])
    f = method.backbone.features(new.x)
    f = f / f.norm(dim=1, keepdim=True)
    for label in (2, 3):
        mean = f[new.y == label].mean(0)
        torch.testing.assert_close(method.means[label], mean / mean.norm())
    assert method.known.tolist() == [True] * 4 + [False] * 6


def test_exemplars_teacher_and_capacity_through_a_run(tiny: Arrays) -> None:
    teachers: dict[int, dict[str, Tensor]] = {}
    ends: list[dict[str, Tensor]] = []
    held: list[Counter[int]] = []

    class Watched(ICaRL):
        def loss(self, batch: Batch, *replay: Batch) -> Tensor:
            state = {key: v.clone() for key, v in self.old.network.state_dict().items()}
            teachers.setdefault(self.task.index, state)
            assert all(torch.equal(teachers[self.task.index][key], state[key]) for key in state)
            loss: Tensor = super().loss(batch, *replay)  # type: ignore[assignment]
            return loss

        def before_evaluation(self, memory: Memory, data: Any) -> None:
            super().before_evaluation(memory, data)
            held.append(Counter(memory.split()[1].tolist()))
            ends.append({key: v.clone() for key, v in self.backbone.state_dict().items()})

    torch.manual_seed(0)
    benchmark = ClassIncremental(tiny, 3)
    method = Watched(MLP((1, 28, 28), 10, (12,)))
    Trainer(method, benchmark, Settings(batch_size=20), buffer=Buffer(Herding(25, 10))).fit()
    for task, state in teachers.items():
        if task:
            assert all(torch.equal(state[key], ends[task - 1][key]) for key in state)
    for task, counts in enumerate(held):
        n = benchmark.classes(task).stop
        assert counts == dict.fromkeys(range(n), 25 // n), "never more than the capacity"


def growing(benchmark: Scenario) -> MLP:
    network = MLP(benchmark.shape, benchmark.n_classes, (16,))
    network.head = Linear(16, benchmark.n_classes, growing=True)
    return network


def test_resumes_and_splits() -> None:
    check = partial(check_method, ICaRL, buffer=lambda: Herding(40, 10))
    check({"mirror": True})
    check(backbone=growing, settings={"epochs": 1, "loss_scope": LossScope.seen})


def test_classes_may_come_again(tiny: Arrays) -> None:
    """In a blurry stream a class is old and of the task at once; its weights are the old ones."""
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        ICaRL,
        buffer=lambda: Herding(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
        shards=(2,),
    )
