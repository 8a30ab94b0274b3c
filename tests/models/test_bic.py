"""BiC: distillation of corrected scores, and the correction from held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.blurry import Blurry
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.bic import BiC
from perdure.models.correction import Correction
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {
    "temperature": 2.0,
    "held_out": 0.1,
    "bias_epochs": 2,
    "bias_lr": 0.1,
}
SIZES = [2, 3, 1, 4]


def tasks() -> list[Task]:
    stops = [sum(SIZES[: t + 1]) for t in range(len(SIZES))]
    return [
        Task(t, Classes(range(stop - n, stop)), Classes(range(stop)))
        for t, (n, stop) in enumerate(zip(SIZES, stops, strict=True))
    ]


def grown(last: int, network: MLP | None = None) -> BiC:
    torch.manual_seed(0)
    method = BiC(network or MLP((1, 28, 28), 10, (12,)), **OPTIONS)
    for task in tasks()[: last + 1]:
        method.task = task
        method.grow(task)
    return method


def corrections(method: BiC) -> list[Correction]:
    return [each for each in method.corrections if isinstance(each, Correction)]


@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_loss_is_the_paper_s(digits: Digits, last: int) -> None:
    """Every earlier (α, β) is in both networks' scores; λ = n / (n + m) with unequal tasks."""
    method, task = grown(last), tasks()[last]
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(0.3 * torch.randn(p.shape))
        for k, each in enumerate(corrections(method)[:-1]):
            each.alpha.fill_(0.5 + 0.25 * k)
            each.beta.fill_(-1.0 + k)
    scale, shift = torch.ones(10), torch.zeros(10)
    scale[2:5], shift[2:5] = (0.5, -1.0) if last > 1 else (1, 0)
    scale[5:6], shift[5:6] = (0.75, 0.0) if last > 2 else (1, 0)
    batch, n, seen = digits(0, 15, *task.seen), task.classes.start, task.seen.stop
    batch.scopes = ((15, range(seen)),)
    o, o_old = method.backbone(batch.x) * scale + shift, method.old(batch.x) * scale + shift
    expected = -(o[:, :seen].softmax(1)[range(15), batch.y]).log().mean()
    if n:
        hat, pi = (z[:, :n].div(2).exp() for z in (o_old, o))
        hat, pi = (p / p.sum(1, keepdim=True) for p in (hat, pi))
        share = n / seen
        expected = share * -(hat * pi.log()).sum(1).mean() + (1 - share) * expected
    ours: Tensor = method.loss(batch)  # type: ignore[assignment]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method(batch.x), o)
    ours.backward()
    assert all(p.grad is None for p in (*method.corrections.parameters(), *method.old.parameters()))


def calibrated() -> tuple[BiC, Batch]:
    """Scores of which each example's softmax is how often each label comes with them."""
    shares = torch.tensor([[4, 2, 1, 1], [1, 1, 2, 4], [2, 1, 4, 1], [1, 4, 1, 2]])
    network = MLP((1, 1, 4), 4, ())
    with torch.no_grad():
        network.head.weight.copy_(torch.eye(4))
    method = BiC(network, **OPTIONS)
    for index in range(2):
        method.task = Task(
            index, Classes(range(2 * index, 2 * index + 2)), Classes(range(2 * index + 2))
        )
        method.grow(method.task)
    rows = [
        (k, c) for k, row in enumerate(shares.tolist()) for c, n in enumerate(row) for _ in range(n)
    ]
    raw = torch.tensor([k for k, _ in rows], dtype=torch.uint8).view(-1, 1, 1, 1)
    y = torch.tensor([c for _, c in rows])
    scores = (shares / 8).log()
    return method, Batch(raw, y, lambda raw, _: scores[raw.flatten().long()].view(-1, 1, 1, 4))


def test_the_correction_of_unbiased_scores_is_none() -> None:
    """From anywhere stage 2 ends at (1, 0), and moves nothing but the newest (α, β)."""
    method, batch = calibrated()
    (correction,) = corrections(method)
    with torch.no_grad():
        correction.alpha.fill_(0.4)
        correction.beta.fill_(1.5)
    method.task.phase = "bias"
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    groups = method.parameter_groups(Phase("bias"))
    assert [p for group in groups for p in group["params"]] == [correction.alpha, correction.beta]
    optimizer = torch.optim.LBFGS(groups[0]["params"], max_iter=100, tolerance_change=0)

    def closure() -> float:
        optimizer.zero_grad()
        loss: Tensor = method.loss(batch)  # type: ignore[assignment]
        loss.backward()
        return loss.item()

    optimizer.step(closure)
    assert float(correction.alpha.detach()) == pytest.approx(1, abs=1e-3)
    assert float(correction.beta.detach()) == pytest.approx(0, abs=1e-3)
    assert all(p.grad is None for p in method.backbone.parameters())
    assert all(torch.equal(before[key], v) for key, v in method.backbone.state_dict().items())


@torch.no_grad()
def test_a_bias_of_the_new_classes_is_taken_away_and_old_ranks_stay() -> None:
    method, batch = calibrated()
    right = method(batch.x)
    method.backbone.head.weight[2:] *= 2
    method.backbone.head.bias[2:] += 3
    biased = method(batch.x)
    (correction,) = corrections(method)
    correction.alpha.fill_(0.5)
    correction.beta.fill_(-1.5)
    torch.testing.assert_close(method(batch.x), right)
    assert torch.equal(method(batch.x)[:, :2], biased[:, :2])


def test_what_a_run_holds_out_and_corrects(tiny: Arrays) -> None:
    drawn: dict[tuple[int, str], list[Tensor]] = {}
    ends: list[dict[str, Tensor]] = []

    class Watched(BiC):
        def loss(self, batch: Batch, *replay: Batch) -> Any:
            drawn.setdefault((self.task.index, self.task.phase), []).append(batch.y.clone())
            return super().loss(batch, *replay)

        def after_task(self, data: Any, memory: Memory) -> None:
            ends.append({key: v.clone() for key, v in self.corrections.state_dict().items()})

    torch.manual_seed(0)
    benchmark = ClassIncremental(tiny, 3)
    method = Watched(MLP((1, 28, 28), 10, (12,)), **OPTIONS)
    optimizers = OptimizerFactory(lambda groups: SGD(groups, lr=0.1, momentum=0.5))
    buffer = Buffer(Herding(100, 10))
    Trainer(method, benchmark, Settings(batch_size=20), optimizers, buffer).fit()
    assert set(drawn) == {(0, "main"), (1, "main"), (1, "bias"), (2, "main"), (2, "bias")}
    for task in (1, 2):
        counts = torch.bincount(torch.cat(drawn[task, "bias"]))
        n_old = benchmark.classes(task).start
        each = OPTIONS["bias_epochs"] * round(0.1 * (100 // n_old))
        assert counts.tolist() == [each] * benchmark.classes(task).stop, "as many of each class"
    assert ends[0] == {}
    assert all(torch.equal(ends[1][key], ends[2][key]) for key in ends[1]), "kept for good"
    assert ends[2].keys() - ends[1].keys() == {"1.alpha", "1.beta"}
    assert not any(torch.equal(v, v.round()) for v in ends[2].values()), "none stayed at (1, 0)"


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "kept"])
def test_resumes_and_splits(reset: bool) -> None:
    check_method(
        BiC,
        OPTIONS,
        buffer=lambda: Herding(40, 10),
        optimizer=lambda groups: SGD(groups, lr=0.05, momentum=0.5),
        settings={"epochs": 1, "reset_optimizer": reset},
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", 0.0), ("held_out", 1.0), ("held_out", 0.0), ("bias_epochs", 0)],
)
def test_values_that_make_no_sense_are_refused(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}={value}: "):
        BiC(MLP((1, 28, 28), 10, (12,)), **{**OPTIONS, key: value})


def test_classes_may_come_again(tiny: Arrays) -> None:
    """In a blurry stream a class is old and of the task at once; its weights are the old ones."""
    benchmark = Blurry(tiny, 3, disjoint_ratio=0.5, blurry_ratio=0.2, class_order="random")
    assert set(benchmark.classes(0)) & set(benchmark.classes(2))
    check_method(
        BiC,
        OPTIONS,
        buffer=lambda: Herding(40, 10),
        benchmark=benchmark,
        settings={"epochs": 1, "batch_size": 30},
        shards=(2,),
    )
