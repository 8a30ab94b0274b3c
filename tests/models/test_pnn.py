"""Progressive networks: what the adapters compute and learn, and that old columns stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from quadratic_penalties import growing
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import PermutedPixels
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.pnn import PNN
from perdure.testing import digits as benchmark_of_digits
from perdure.training.optim import SGD

Digits = Callable[..., Batch]
NETWORKS: dict[str, Callable[[], Backbone]] = {
    "mlp": lambda: MLP((1, 28, 28), 10, (20, 12)),
    "small-conv": lambda: SmallConv((1, 28, 28), 10, width=2),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())


def make(network: Callable[[], Backbone], digits: Digits, tasks: int = 3) -> PNN:
    """In the last of so many tasks, each column with other weights; nothing is trained."""
    torch.manual_seed(0)
    method = PNN(network())
    for t in range(tasks):
        method.task = Task(t, range(2 * t, 2 * t + 2), range(2 * t + 2))
        method.grow(method.task)
        method.before_task(lambda n: [digits(0, n)])
        with torch.no_grad():
            for p in method.backbone.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    return method


def column(network: Any, adapters: Any, earlier: list[list[Tensor]], x: Tensor) -> list[Tensor]:
    """Inputs of the MLP's second layer and head, and its logits: eq. 2 by hand, for a vector."""
    h, found = x.flatten(), []
    for i, layer in enumerate((*network.layers, network.head)):
        out = layer.weight @ h + layer.bias
        if i and earlier:
            adapter = adapters[i - 1]
            joined = torch.cat([a * e[i - 1] for a, e in zip(adapter.alpha, earlier, strict=True)])
            reduced = adapter.v.weight @ joined + adapter.v.bias
            out = out + adapter.u.weight @ reduced.clamp(min=0)
        h = out if i == len(network.layers) else out.clamp(min=0)
        found.append(h)
    return found


def test_each_column_is_that_of_the_paper(digits: Digits) -> None:
    method, x = make(NETWORKS["mlp"], digits), digits(0, 5).x
    columns = [*(past.network for past in method.past), method.backbone]
    for n in range(len(x)):
        earlier: list[list[Tensor]] = []
        for t, network in enumerate(columns):
            earlier.append(column(network, method.adapters[t], earlier, x[n]))
            found = method.predict(x, t)[n]
            torch.testing.assert_close(found, earlier[t][-1], rtol=1e-4, atol=1e-5)
    assert torch.equal(method(x), method.predict(x, 2))


@networks
def test_the_loss_reaches_every_adapter(network: Callable[[], Backbone], digits: Digits) -> None:
    """In a released code the lateral connections never run."""
    method, batch = make(network, digits), digits(0, 12)
    loss = method.loss(batch)
    assert isinstance(loss, Tensor)
    loss.backward()
    assert len(method.adapters[2]) == len(method._layers) - 1
    for adapter in method.adapters[2]:
        assert adapter.alpha.shape == (2,)
        for name, p in adapter.named_parameters():
            assert p.grad is not None
            assert p.grad.any(), name
    trained = {id(p) for p in method.trainable()}
    current = {id(p) for part in (method.backbone, method.adapters[2]) for p in part.parameters()}
    assert trained == current


@networks
def test_the_outputs_depend_on_each_earlier_column(
    network: Callable[[], Backbone], digits: Digits
) -> None:
    method, x = make(network, digits), digits(0, 12).x
    before = [method.predict(x, t) for t in range(3)]
    with torch.no_grad():
        method._layers[0].weight.add_(1)
    assert torch.equal(method.predict(x, 1), before[1])
    assert not torch.equal(method.predict(x, 2), before[2])
    for t in range(2):
        with torch.no_grad():
            for p in method.past[t].network.parameters():
                p.mul_(1.5)
        for later in range(t, 3):
            assert not torch.equal(method.predict(x, later), before[later])
        before = [method.predict(x, s) for s in range(3)]


class Watched(PNN):
    """Notes at each task's end what it answers for the tasks so far."""

    def __init__(self, network: Backbone, x: Tensor) -> None:
        super().__init__(network)
        self.x = x
        self.answers: list[list[Tensor]] = []

    @torch.no_grad()
    def after_task(self, data: Any, memory: Any) -> None:
        self.eval()
        self.answers.append([self.predict(self.x, t) for t in range(self.task.index + 1)])


@pytest.mark.parametrize("reset", [True, False], ids=["fresh", "kept optimizer"])
@networks
def test_old_outputs_stay_to_the_bit(
    make_trainer: MakeTrainer, digits: Digits, network: Callable[[], Backbone], reset: bool
) -> None:
    x = digits(0, 30).x
    trainer = make_trainer(
        lambda _: Watched(network(), x),
        buffer=None,
        iterations=6,
        reset_optimizer=reset,
        optimizer=lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    )
    matrix = trainer.fit()["accuracy_matrix"]
    answers = trainer.method.answers
    assert len(answers) == 3
    for later in answers[1:]:
        for t, found in enumerate(later[:-1]):
            assert torch.equal(found, answers[t][t])
    assert not torch.equal(answers[2][0], answers[2][1])
    assert matrix["task_il"][-1][:2] == [matrix["task_il"][0][0], matrix["task_il"][1][1]]


def test_columns_start_alike(digits: Digits) -> None:
    method = make(NETWORKS["mlp"], digits, tasks=1)
    first = {n: p.clone() for n, p in method.first.network.named_parameters()}
    trained = {n: p.clone() for n, p in method.backbone.named_parameters()}
    method.task = Task(1, range(2, 4), range(4))
    method.grow(method.task)
    method.before_task(lambda n: [])
    for n, p in method.backbone.named_parameters():
        assert torch.equal(p, first[n])
        assert torch.equal(dict(method.past[0].network.named_parameters())[n], trained[n])
    assert all(bool((adapter.alpha == 0.1).all()) for adapter in method.adapters[1])


def test_networks_that_have_no_columns_are_refused(digits: Digits) -> None:
    with pytest.raises(UserError, match="not growing"):
        PNN(growing(benchmark_of_digits()))
    with pytest.raises(UserError, match="plain chain"):
        PNN(ReducedResNet18((1, 28, 28), 10, width=2))


def test_one_column_is_the_network_alone(digits: Digits) -> None:
    method, batch = make(NETWORKS["mlp"], digits, tasks=1), digits(0, 12)
    logits = method.backbone.head(method.backbone.features(batch.x))
    assert torch.equal(method(batch.x), logits)
    assert torch.equal(method.loss(batch), F.cross_entropy(logits, batch.y))


def test_the_contract_of_a_method() -> None:
    check_method(PNN)


def test_tasks_of_the_same_classes(few: Any) -> None:
    check_method(PNN, benchmark=PermutedPixels(few, 2), settings={"epochs": 1}, every=60)
