"""PackNet: pruning, whose weights move, and what earlier tasks keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import MakeTrainer, check_method
from quadratic_penalties import growing
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Cosine
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.owners import FREE, Owners
from perdure.models.packnet import PackNet
from perdure.models.phase import MAIN
from perdure.training.optim import SGD

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {"prune": 0.5, "retrain_epochs": 1}
NETWORKS: dict[str, Callable[[], Backbone]] = {
    "mlp": lambda: MLP((1, 28, 28), 10, (20, 12)),
    "small-conv": lambda: SmallConv((1, 28, 28), 10, width=2),
    "batch-norm": lambda: ReducedResNet18((1, 28, 28), 10, width=2),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


class Watched(PackNet):
    """Notes at each task's end what it answers for each task so far, and its weights."""

    def __init__(self, network: Backbone, x: Tensor, **options: Any) -> None:
        super().__init__(network, **{**OPTIONS, **options})
        self.x = x
        self.answers: list[list[Tensor]] = []
        self.weights: list[Tensor] = []
        self.started: list[Tensor] = []

    def _flat(self) -> Tensor:
        names = self.owners._weights.values()
        return torch.cat([w.detach().flatten() for w in names])

    def before_task(self, data: Any) -> None:
        self.started.append(self._flat())

    @torch.no_grad()
    def after_task(self, data: Any, memory: Any) -> None:
        self.eval()
        # As it will be asked later: with the mask of the task.
        last = self.task.index
        answers = [self.predict(self.x, t) for t in range(last + 1)]
        assert torch.equal(self.owners.scores(self.x, last), answers[last])
        self.answers.append(answers)
        self.weights.append(self._flat())


def run(
    make_trainer: MakeTrainer,
    network: str,
    optimizer: str,
    digits: Digits,
    prune: float = 0.5,
    **more: Any,
) -> tuple[Watched, Any]:
    x = digits(0, 30).x
    trainer = make_trainer(
        lambda _: Watched(NETWORKS[network](), x, prune=prune),
        buffer=None,
        optimizer=OPTIMIZERS[optimizer],
        **more,
    )
    return trainer.method, trainer.fit()  # type: ignore[return-value]


@pytest.mark.parametrize("reset", [True, False], ids=["fresh", "kept optimizer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_old_logits_stay_to_the_bit(
    make_trainer: MakeTrainer, digits: Digits, network: str, optimizer: str, reset: bool
) -> None:
    """Momentum and weight decay move what a mask of the gradient alone would leave to them."""
    more = {"iterations": 6, "reset_optimizer": reset, "batch_size": 30}
    method, _ = run(make_trainer, network, optimizer, digits, **more)
    assert method.task.index == 2
    for later in method.answers[1:]:
        for task, classes in ((0, slice(0, 4)), (1, slice(4, 7))):
            if task < len(later) - 1:
                first = method.answers[task][task]
                assert torch.equal(later[task][:, classes], first[:, classes])
    frozen = method.frozen_state()
    assert len(frozen) == 3 * len(method.owners._weights) + len(method.owners.shared) + 20


def test_free_weights_move_and_are_zero_between_tasks(
    make_trainer: MakeTrainer, digits: Digits
) -> None:
    method, results = run(make_trainer, "mlp", "sgd", digits, epochs=2, prune=0.75)
    owner = method.owners.owner
    for task in range(3):
        beyond = owner > task
        assert not method.weights[task][beyond].any(), "pruned, and zero when retrained"
        # A weight of a pixel that is always 0 has no gradient, and stays where it started.
        assert (method.weights[task][owner == task] != 0).float().mean() > 0.5
        if task:
            assert torch.equal(method.started[task], method.weights[task - 1])
    sizes = [w.numel() for w in method.owners._weights.values()]
    for n, part in zip(sizes, owner.split(sizes), strict=True):
        free = n
        for task in range(3):
            left = int(0.75 * free)
            assert (part == task).sum() == free - left
            free = left
        assert (part == FREE).sum() == free
    matrix = results["accuracy_matrix"]
    assert matrix["task_il"][-1][0] == matrix["task_il"][0][0] > 0.6
    assert matrix.get("class_il") is None


def test_the_smallest_free_weights_of_each_layer_are_pruned(digits: Digits) -> None:
    """Whatever those of earlier tasks are."""
    torch.manual_seed(0)
    method = PackNet(NETWORKS["mlp"](), prune=0.3, retrain_epochs=1)
    method.task = Task(4, range(8, 10), range(10))
    layers = method.backbone.layers
    before = [layer.weight.detach().clone() for layer in layers]
    for owner in method.owners._owners():
        owner[::3] = 1
    method.before_phase(MAIN, None, None)
    assert torch.equal(layers[0].weight, before[0])
    method.before_phase(method.phases(method.task)[1], None, None)
    for layer, old, owner in zip(layers, before, method.owners._owners(), strict=True):
        free = torch.ones_like(old, dtype=torch.bool)
        free[::3] = False
        values = sorted(old[free].abs().tolist())
        bound = values[int(0.3 * len(values))]
        for i in range(len(old)):
            for j in range(0, old.shape[1], 29):
                if i % 3 == 0:
                    assert owner[i, j] == 1
                    assert layer.weight[i, j] == old[i, j]
                elif abs(old[i, j]) < bound:
                    assert owner[i, j] == FREE
                    assert layer.weight[i, j] == 0
                else:
                    assert owner[i, j] == 4
                    assert layer.weight[i, j] == old[i, j]


def test_a_task_reads_no_later_weights(digits: Digits) -> None:
    torch.manual_seed(0)
    method = PackNet(NETWORKS["small-conv"](), **OPTIONS)
    for t in range(2):
        method.task = Task(t, range(2 * t, 2 * t + 2), range(2 * t + 2))
        method.grow(method.task)
        method.owners.prune(0.5, t)
    x = digits(0, 9).x
    first, second = method.predict(x, 0), method.predict(x, 1)
    with torch.no_grad():
        for weight, owner in zip(
            method.owners._weights.values(), method.owners._owners(), strict=True
        ):
            weight[owner > 0] = float("nan")
    assert torch.equal(method.predict(x, 0), first)
    assert torch.isfinite(first).all()
    assert not torch.equal(method.predict(x, 1), second)


@pytest.mark.parametrize(
    ("key", "value"),
    [("prune", 0.0), ("prune", 1.0), ("retrain_epochs", 0), ("retrain_epochs", 0.5)],
)
def test_values_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"model\.{key}=.*must be"):
        PackNet(NETWORKS["mlp"](), **{**OPTIONS, key: value})


def test_networks_that_cannot_be_divided_are_refused() -> None:
    network = NETWORKS["mlp"]()
    network.head = Cosine(12, 10)
    with pytest.raises(UserError, match="must be head=linear"):
        Owners(network)
    with pytest.raises(UserError, match="no layer before the head"):
        Owners(MLP((1, 28, 28), 10, ()))


def test_another_loss_scope_is_refused(digits: Digits) -> None:
    method = PackNet(NETWORKS["mlp"](), **OPTIONS)
    method.task = Task(1, range(2, 4), range(4))
    with pytest.raises(UserError, match=r"training\.loss_scope: packnet has a head a task"):
        method.loss(digits(0, 12))


def test_the_contract_of_a_method() -> None:
    momentum = OPTIMIZERS["sgd"]
    check_method(PackNet, OPTIONS, optimizer=momentum, every=9)


def test_a_growing_head() -> None:
    check_method(PackNet, OPTIONS, backbone=growing, every=9)
