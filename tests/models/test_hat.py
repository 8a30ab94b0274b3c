"""Hard attention to the task: gates, annealing, gradients, and what earlier tasks keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Cosine
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.backbones.small_conv import SmallConv
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.models.base import Task
from perdure.models.hat import HAT
from perdure.testing import digits
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Digits = Callable[..., Batch]
OPTIONS = {"smax": 40.0, "c": 0.75}
NETWORKS: dict[str, Callable[[], Backbone]] = {
    "mlp": lambda: MLP((1, 28, 28), 10, (20, 12)),
    "small-conv": lambda: SmallConv((1, 28, 28), 10, width=4),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())


def task_of(index: int, **more: int) -> Task:
    classes = Classes(range(2 * index, 2 * index + 2))
    return Task(index, classes, Classes(range(classes.stop)), **more)


def make(network: Callable[[], Backbone], task: int = 1, **options: float) -> HAT:
    """In the second of five tasks, in the middle of an epoch; half of the units are used."""
    torch.manual_seed(0)
    method = HAT(network(), **{**OPTIONS, **options})
    for index in range(task + 1):
        method.grow(task_of(index))
    method.task = task_of(task, step=6, steps_per_epoch=11)
    method.used.copy_(torch.rand(len(method.used)))
    return method


def scoped(batch: Batch, task: int) -> Batch:
    """With the scope that the trainer gives it."""
    own = range(2 * task, 2 * task + 2)
    return Batch(batch.raw, batch.y, batch.transform, scope=own)


def gated(method: HAT, x: Tensor, a: Tensor) -> Tensor:
    """The MLP's features by hand, each layer's gates after its ReLU."""
    network = method.backbone
    assert isinstance(network, MLP)
    x = x.flatten(1)
    for layer, gates in zip(network.layers, a.split(method.units), strict=True):
        x = torch.relu(layer(x)) * gates
    return x


def test_the_scale_is_never_negative_and_ends_at_its_largest(digits: Digits) -> None:
    method = make(NETWORKS["mlp"], smax=400.0)
    method.task = task_of(1, steps_per_epoch=100)
    scales = []
    for method.task.step in range(100):
        scales.append(method.s)
    assert scales[0] == pytest.approx(1 / 400)
    assert scales[-1] == pytest.approx(400)
    expected = [1 / 400 + (400 - 1 / 400) * (i - 1) / 99 for i in range(1, 101)]
    assert scales == pytest.approx(expected)
    method.task = task_of(1, steps_per_epoch=1)
    assert method.s == 400, "an epoch of a single step"


def test_the_loss_is_that_of_the_paper(digits: Digits) -> None:
    method = make(NETWORKS["mlp"])
    batch = scoped(digits(0, 12, 2, 3), 1)
    s = 1 / 40 + (40 - 1 / 40) * 6 / 10
    a = torch.sigmoid(s * method.embeddings[1])
    logits = method.backbone.head(gated(method, batch.x, a))[:, 2:4]
    free = 1 - method.used
    expected = F.cross_entropy(logits, batch.y - 2) + 0.75 * (a * free).sum() / free.sum()
    ours = method.loss(batch)
    assert isinstance(ours, Tensor)
    torch.testing.assert_close(ours, expected)
    parts = [method.loss(batch.part(0, 5)), method.loss(batch.part(5, 12))]
    torch.testing.assert_close(parts[0] + parts[1], ours)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"training\.loss_scope: hat has a head a task"):
        method.loss(digits(0, 12, 2, 3))


def test_gradients_are_held_and_compensated_weight_by_weight(digits: Digits) -> None:
    method = make(NETWORKS["mlp"])
    method.task.step = 1
    batch = scoped(digits(0, 12, 2, 3), 1)
    loss = method.loss(batch)
    assert isinstance(loss, Tensor)
    loss.backward()
    before = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    method.after_backward(None)
    after = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    first, second = method.used.split(method.units)
    expected = {name: grad.clone() for name, grad in before.items()}
    for i in range(20):
        expected["backbone.layers.0.weight"][i] *= 1 - first[i]
        expected["backbone.layers.0.bias"][i] *= 1 - first[i]
    for i in range(12):
        expected["backbone.layers.1.bias"][i] *= 1 - second[i]
        for j in range(20):
            expected["backbone.layers.1.weight"][i, j] *= 1 - min(second[i], first[j])
    s, e = method.s, method.embeddings[1].detach()
    # The gradient of the gate at scale s becomes that of the gate at scale 1, times s_max.
    at_s = s * torch.sigmoid(s * e) * (1 - torch.sigmoid(s * e))
    at_1 = torch.sigmoid(e) * (1 - torch.sigmoid(e))
    small = (s * e).abs() < 4  # beyond, autograd's own is not exact enough
    expected["embeddings.1"] *= 40 * at_1 / at_s
    assert small.sum() > 15
    assert after.keys() == expected.keys()
    for name, grad in after.items():
        rows = small if name == "embeddings.1" else slice(None)
        torch.testing.assert_close(grad[rows], expected[name][rows], rtol=1e-4, atol=1e-8)
    assert torch.isfinite(after["embeddings.1"]).all()


def train(method: HAT, batch: Batch, steps: int = 20) -> None:
    """Some steps on one batch, of one epoch, as the trainer takes them."""
    optimizer = SGD(method.trainable(), lr=0.5)
    for method.task.step in range(steps):
        method.task.steps_per_epoch = steps
        optimizer.zero_grad()
        loss = method.loss(batch)
        assert isinstance(loss, Tensor)
        loss.backward()
        method.after_backward(None)
        optimizer.step()
        method.after_step({}, {})


@networks
def test_where_all_units_are_used_no_weight_moves(
    network: Callable[[], Backbone], digits: Digits
) -> None:
    method = make(network)
    method.used.fill_(1)
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    train(method, scoped(digits(0, 20, 2, 3), 1))
    for name, value in method.backbone.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(value, before[name]), name
    assert torch.equal(method.backbone.head.weight[:2], before["head.weight"][:2])
    assert not torch.equal(method.backbone.head.weight[2:4], before["head.weight"][2:4])


@networks
def test_an_earlier_task_s_outputs_do_not_move(
    network: Callable[[], Backbone], digits: Digits
) -> None:
    """Half of the units, with closed and open gates; the others of every layer learn."""
    method = make(network)
    with torch.no_grad():
        signs = torch.randint(2, method.embeddings[0].shape) * 2 - 1
        method.embeddings[0].copy_(6 * signs)
    method.task = task_of(0)
    method.used.zero_()
    method.after_task(lambda n: (), None)  # type: ignore[arg-type]
    method.task = task_of(1)
    x = digits(0, 50).x
    before = method.predict(x, 0)[:, :2]
    start = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    train(method, scoped(digits(0, 20, 2, 3), 1))
    moved = [not torch.equal(p, start[n]) for n, p in method.backbone.state_dict().items()]
    assert all(moved)
    assert (method.predict(x, 0)[:, :2] - before).abs().max() < 1e-6
    assert not torch.allclose(method.predict(x, 1)[:, :2], before)


def test_a_whole_run_forgets_nothing(make_trainer: MakeTrainer) -> None:
    """Gates that were learned are nearly closed or open: the scale at test is what they saw."""
    outputs: list[Tensor] = []

    class Watched(HAT):
        def after_task(self, data: Any, memory: Any) -> None:
            super().after_task(data, memory)
            with torch.no_grad():
                outputs.append(self.predict(x, 0)[:, :4])

    trainer = make_trainer(lambda network: Watched(network, 400.0, 0.75), epochs=3, buffer=None)
    x = trainer.benchmark.evaluation(0).x.float() / 255
    results = trainer.fit()
    assert trainer.benchmark.classes(0) == range(4)
    matrix = results["accuracy_matrix"]
    assert matrix["task_il"][-1][0] == matrix["task_il"][0][0] > 0.6
    assert matrix.get("class_il") is None
    assert (outputs[-1] - outputs[0]).abs().max() < 1e-3


@pytest.mark.parametrize("growing", [False, True], ids=["fixed", "growing"])
def test_the_contract_of_a_method(growing: bool) -> None:
    def backbone(benchmark: Any) -> Backbone:
        network = MLP(benchmark.shape, benchmark.n_classes, (16,))
        if growing:
            from perdure.backbones.heads import Linear

            network.head = Linear(16, benchmark.n_classes, growing=True)
        return network

    check_method(HAT, OPTIONS, backbone=backbone)


def test_more_tasks_than_have_begun_are_measured() -> None:
    torch.manual_seed(0)
    trainer = Trainer(
        HAT(MLP((1, 28, 28), 10, (8,)), **OPTIONS),
        digits(),
        Settings(batch_size=10, evaluate_future=True, iterations=3),
        OptimizerFactory(lambda groups: SGD(groups, lr=0.1)),
    )
    assert trainer.fit()["forward_transfer"]["task_il"] is not None


class Skipping(MLP):
    """A way around the second layer."""

    def stages(self, x: Tensor) -> Any:
        first = torch.relu(self.layers[0](x.flatten(1)))
        yield self.layers[1](first) + first


class Swapped(MLP):
    """Runs its layers the other way round."""

    def stages(self, x: Tensor) -> Any:
        yield self.layers[0](torch.relu(self.layers[1](x.flatten(1)[:, :9])))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: ReducedResNet18((1, 28, 28), 10, width=2), "has bn1.weight"),
        (lambda: MLP((1, 28, 28), 10, ()), "has no hidden layer"),
        (lambda: Skipping((1, 28, 28), 10, (9, 9)), "has a connection around a layer"),
        (lambda: Swapped((1, 3, 3), 10, (9, 9)), "run in another order"),
    ],
    ids=["batch norm", "linear", "shortcut", "order"],
)
def test_a_network_that_is_no_chain_is_refused(
    network: Callable[[], Backbone], why: str, digits: Digits
) -> None:
    with pytest.raises(UserError, match=rf"backbone\._target_=.*{why}.*backbone=mlp"):
        make(network, task=0).before_task(lambda n: [digits(0, n)])


@pytest.mark.parametrize("options", [{"smax": 0.5}, {"c": -1.0}], ids=["smax", "c"])
def test_values_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"model\.smax=.*model\.c=.*must be at least"):
        make(NETWORKS["mlp"], **options)


def test_another_head_is_refused() -> None:
    network = MLP((1, 28, 28), 10, (8,))
    network.head = Cosine(8, 10)
    with pytest.raises(UserError, match="must be head=linear"):
        HAT(network, **OPTIONS)
