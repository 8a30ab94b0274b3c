"""Nearest class mean: means by a loop, whatever the order of the examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kit import MakeTrainer, check_method

from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import StepOutput, Task
from perdure.models.ncm import NCM

Digits = Callable[..., Batch]


def trained(batches: list[Batch], metric: str) -> NCM:
    torch.manual_seed(0)
    method = NCM(MLP((1, 28, 28), 10, (12,)), metric, 0)  # type: ignore[arg-type]
    for index, batch in enumerate(batches):
        method.task = Task(index, range(10), range(10))
        output = method.loss(batch)
        assert isinstance(output, StepOutput)
        assert output.loss is None
        method.after_step(output.rows, output.sums)
    return method


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_closest_mean_is_chosen_whatever_the_order(metric: str, digits: Digits) -> None:
    """Class 3 comes in three batches: its mean is over all of them, not a mean of means."""
    batches = [digits(0, 30, 3, 5), digits(30, 90, 3, 7), digits(90, 93, 3)]
    method, test = trained(batches, metric), digits(0, 200)
    x = method.backbone.features(test.x).detach()
    every, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    f = method.backbone.features(every).detach()
    expected = []
    for row in x:
        distance = {}
        for c in (3, 5, 7):
            mean = f[y == c].mean(0)
            cosine = (row @ mean / row.norm() / mean.norm()).item()
            distance[c] = -cosine if metric == "cosine" else (row - mean).square().sum().item()
        expected.append(min(distance, key=lambda c: distance[c]))
    scores = method.predict(test.x)
    assert scores.argmax(1).tolist() == expected
    torch.testing.assert_close(trained(batches[::-1], metric).predict(test.x), scores)


def test_every_example_counts_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(lambda network: NCM(network, "cosine", 0), epochs=3, buffer=None)
    trainer.fit()
    benchmark = trainer.benchmark
    y = torch.cat([benchmark.train(task).y for task in range(3)])
    assert torch.equal(trainer.method.means.counts, torch.bincount(y, minlength=10))


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.metric=l1: must be cosine or euclidean"):
        NCM(MLP((1, 2, 2), 3, (4,)), "l1", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("base_epochs", [0, 1])
def test_the_contract_of_a_method(base_epochs: int) -> None:
    check_method(NCM, {"metric": "cosine", "base_epochs": base_epochs})
