"""Streaming linear discriminant analysis: the recursions one example at a time, and plain LDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import MakeTrainer, check_method
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.errors import UserError
from perdure.models.base import StepOutput, Task
from perdure.models.memory import Memory
from perdure.models.slda import SLDA

Digits = Callable[..., Batch]


def slda(d: int = 4, classes: int = 5, **options: Any) -> SLDA:
    return SLDA(MLP((1, 2, 2), classes, (d,)), **{"shrinkage": 1e-4, **options})


def one_by_one(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Covariance and means by the paper's recursions, in double precision."""
    sigma = np.zeros((x.shape[1],) * 2)
    mean, count = np.zeros((classes, x.shape[1])), np.zeros(classes)
    for n, (row, label) in enumerate(zip(x, y, strict=True)):
        d = row - mean[label]
        sigma = (n * sigma + n / (n + 1) * np.outer(d, d)) / (n + 1)
        mean[label] = (count[label] * mean[label] + row) / (count[label] + 1)
        count[label] += 1
    return sigma, mean


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    n_labels=st.integers(1, 5),
)
@settings(max_examples=50, deadline=None)
def test_a_batch_gives_what_its_examples_give_one_by_one(
    seed: int, sizes: list[int], n_labels: int
) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(n_labels, size=sum(sizes))
    x = (rng.normal(size=(len(y), 4)) + 3 * rng.normal(size=(5, 4))[y]).astype(np.float32)
    method, start = slda(), 0
    for n in sizes:
        rows = slice(start, start := start + n)
        method.update_statistics(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    sigma, mean = one_by_one(x.astype(np.float64), y, 5)
    np.testing.assert_allclose(method.covariance.numpy(), sigma, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(method.mean.numpy(), mean, rtol=1e-4, atol=1e-5)
    assert method.count.tolist() == np.bincount(y, minlength=5).tolist()


def test_it_is_linear_discriminant_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Friedman's form: pooled covariance, shrunk towards I; equal priors, as in the paper.

    The stream weighs an example's scatter by n/(n + 1), not c/(c + 1), which vanishes with n.
    """
    rng = np.random.default_rng(0)
    mix, centers = rng.normal(size=(6, 6)), rng.normal(size=(5, 6))
    y = rng.integers(5, size=6000)
    x = (centers[y] + rng.normal(size=(6000, 6)) @ mix).astype(np.float32)
    method = slda(d=6, shrinkage=0.1)
    for rows in np.array_split(np.arange(4000), 57):
        method.update_statistics(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    method.before_evaluation(Memory(None, lambda raw, _: raw), lambda n: ())
    monkeypatch.setattr(method.backbone, "features", lambda x: x)
    scores = method.predict(torch.from_numpy(x[4000:])).numpy()

    known, labels = x[:4000].astype(np.float64), y[:4000]
    means = np.stack([known[labels == c].mean(0) for c in range(5)])
    within = (known - means[labels]).T @ (known - means[labels]) / 4000
    inverse = np.linalg.inv(0.9 * within + 0.1 * np.eye(6))
    bias = -0.5 * np.einsum("ci,ij,cj->c", means, inverse, means)
    expected = x[4000:] @ (means @ inverse).T + bias
    np.testing.assert_allclose(method.covariance.numpy(), within, rtol=0.05, atol=0.05)
    assert (scores.argmax(1) == expected.argmax(1)).mean() > 0.995
    np.testing.assert_allclose(scores, expected, rtol=0.05, atol=0.05)


def test_only_classes_that_have_occurred_are_chosen(digits: Digits) -> None:
    torch.manual_seed(0)
    method = SLDA(MLP((1, 28, 28), 10, (12,)), 1e-4)
    batch = digits(0, 40, 3, 7)
    assert torch.isfinite(method.predict(batch.x)).all(), "before anything is known, too"
    method.update_statistics(method.backbone.features(batch.x), batch.y)
    method.before_evaluation(Memory(None, batch.transform), lambda n: ())
    scores = method.predict(digits(0, 50).x)
    assert set(scores.argmax(1).tolist()) == {3, 7}
    assert torch.isfinite(scores.softmax(1)).all()


def test_the_stream_changes_nothing_of_the_network(digits: Digits) -> None:
    """Batch norm keeps its statistics: an example's features do not depend on its neighbors."""
    method = SLDA(ReducedResNet18((1, 28, 28), 10, width=2), 1e-4)
    method.task = Task(0, Classes((0, 1)), Classes((0, 1)))
    before = {key: value.clone() for key, value in method.backbone.state_dict().items()}
    method.train()
    batch = digits(0, 12, 0, 1)
    output = method.loss(batch)
    assert isinstance(output, StepOutput)
    assert output.loss is None
    alone = method.loss(batch.part(0, 1))
    assert isinstance(alone, StepOutput)
    torch.testing.assert_close(output.rows["x"][:1], alone.rows["x"])
    for key, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[key])
    assert not method.trainable()


def test_every_example_counts_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lambda network: SLDA(network, 1e-4), epochs=3, buffer=None)
    trainer.fit()
    method, benchmark = trainer.method, trainer.benchmark
    y = torch.cat([benchmark.train(task).y for task in range(3)])
    assert torch.equal(method.count.long(), torch.bincount(y, minlength=10))
    trained = trainer.state.results.summary()["accuracy_matrix"]["class_il"]
    assert sum(trained[-1]) / 3 > 0.3, "of ten digits, by 20 random features"


def test_the_first_task_may_train_the_network(make_trainer: MakeTrainer) -> None:
    weights: list[tuple[int, str, Tensor]] = []

    class Watched(SLDA):
        def loss(self, batch: Batch, *replay: Batch) -> Any:
            weight = self.backbone.get_parameter("layers.0.weight").detach().clone()
            weights.append((self.task.index, self.task.phase, weight))
            return super().loss(batch, *replay)

    trainer = make_trainer(lambda network: Watched(network, 1e-4, base_epochs=2), buffer=None)
    trainer.fit()
    steps = -(-trainer.benchmark.n_train(0) // 10)
    order = [phase for task, phase, _ in weights if task == 0]
    assert order == ["base"] * 2 * steps + ["main"] * steps
    assert not torch.equal(weights[0][2], weights[2 * steps][2])
    assert all(torch.equal(weights[2 * steps][2], w) for _, phase, w in weights if phase == "main")


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_contract_of_a_method(base_epochs: int) -> None:
    check_method(SLDA, {"shrinkage": 1e-4, "base_epochs": base_epochs})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrinkage": 0.0}, r"model\.shrinkage=0\.0: must be above 0 and at most 1"),
        ({"shrinkage": 1.5}, r"model\.shrinkage=1\.5"),
        ({"base_epochs": -1}, r"model\.base_epochs=-1: must be an integer of 0 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        slda(**options)
