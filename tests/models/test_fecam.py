"""FeCAM: its formula by loops; Gaussians of known covariance; equal covariances give NCM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from kit import check_method
from torch import Tensor

from perdure.backbones.heads import UNSEEN
from perdure.backbones.mlp import MLP
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.fecam import FeCAM
from perdure.models.memory import Memory

Digits = Callable[..., Batch]
OPTIONS: dict[str, Any] = {
    "gamma1": 1.0, "gamma2": 1.0, "tukey": 0.5, "shared": False, "base_epochs": 0,
}  # fmt: skip


def fecam(**changed: Any) -> FeCAM:
    torch.manual_seed(0)
    return FeCAM(MLP((1, 28, 28), 10, (12,)), **{**OPTIONS, **changed})


def fit(method: FeCAM, *tasks: Batch) -> FeCAM:
    for batch in tasks:
        parts = [batch.part(i, i + 11) for i in range(0, len(batch), 11)]
        method.after_task(lambda n, parts=parts: parts, Memory(None, batch.transform))  # type: ignore[misc]
    method.before_evaluation(Memory(None, tasks[0].transform), lambda n: ())
    return method


def by_loops(f: np.ndarray, y: np.ndarray, x: np.ndarray, classes: list[int]) -> np.ndarray:
    """Equations 4 to 9 with γ₁ = γ₂ = 1 and λ = ½, an element at a time."""
    f, x = f.astype(float) ** 0.5, x.astype(float) ** 0.5
    scores = np.zeros((len(x), len(classes)))
    for k, c in enumerate(classes):
        rows = f[y == c]
        mean, d = rows.mean(0), f.shape[1]
        cov = np.cov(rows, rowvar=False)
        v1 = np.mean([cov[i, i] for i in range(d)])
        v2 = np.mean([cov[i, j] for i in range(d) for j in range(d) if i != j])
        shrunk = np.array(
            [[cov[i, j] + (v1 if i == j else v2) for j in range(d)] for i in range(d)]
        )
        norm = [
            [shrunk[i, j] / (shrunk[i, i] * shrunk[j, j]) ** 0.5 for j in range(d)]
            for i in range(d)
        ]
        inverse = np.linalg.inv(np.array(norm))
        for b, row in enumerate(x):
            difference = row / np.linalg.norm(row) - mean / np.linalg.norm(mean)
            scores[b, k] = -difference @ inverse @ difference
    return scores


def test_scores_are_those_of_the_paper(digits: Digits) -> None:
    """The correlations of S itself, not those of its rows (as np.corrcoef of S would give)."""
    tasks, test = [digits(0, 60, 0, 1), digits(0, 60, 2, 5)], digits(0, 40)
    method = fit(fecam(), *tasks)
    f = torch.cat([method.backbone.features(b.x) for b in tasks]).detach().numpy()
    y = torch.cat([b.y for b in tasks]).numpy()
    expected = by_loops(f, y, method.backbone.features(test.x).detach().numpy(), [0, 1, 2, 5])
    scores = method.predict(test.x)
    np.testing.assert_allclose(scores[:, [0, 1, 2, 5]].detach(), expected, rtol=1e-3, atol=1e-4)
    assert (scores[:, [3, 4, 6, 9]] == UNSEEN).all()


@pytest.mark.parametrize("shared", [True, False])
def test_identity_covariances_give_the_nearest_mean(shared: bool, digits: Digits) -> None:
    method = fit(fecam(shared=shared, gamma2=0.0), digits(0, 60, 0, 1, 2))
    method.covariance[:] = torch.eye(12)
    method.before_evaluation(Memory(None, digits(0, 1).transform), lambda n: ())
    x = method.backbone.features(digits(0, 80).x).sqrt()
    x, means = (v / v.norm(dim=1, keepdim=True) for v in (x, method.mean[:3]))
    expected = [min(range(3), key=lambda c: (row - means[c]).norm().item()) for row in x]
    assert method.predict(digits(0, 80).x).argmax(1).tolist() == expected


def test_a_wide_class_reaches_farther_than_a_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Gaussians whose correlations differ in sign, which means alone cannot tell apart."""
    rng = np.random.default_rng(0)
    covariance = {0: [[1.0, 0.9], [0.9, 1.0]], 1: [[1.0, -0.9], [-0.9, 1.0]]}
    y = np.repeat([0, 1], 400)
    rest = [10.0, 10.0, 10.0]
    x = np.stack([[*rng.multivariate_normal([10, 10], covariance[c]), *rest] for c in y])
    torch.manual_seed(0)
    plain = {"gamma1": 0.01, "gamma2": 0.0, "tukey": 1.0}
    method = FeCAM(MLP((1, 1, 5), 2, (5,)), **{**OPTIONS, **plain})
    monkeypatch.setattr(method.backbone, "features", lambda x: x.flatten(1))
    inputs = torch.from_numpy(x).float().view(-1, 1, 1, 5)
    batch = Batch(inputs, torch.from_numpy(y), lambda raw, _: raw)
    fit(method, batch)
    right = (method.predict(inputs).argmax(1).numpy() == y).mean()
    assert right > 0.8


def test_a_shared_covariance_is_the_mean_of_the_classes(digits: Digits) -> None:
    tasks = [digits(0, 60, 0, 1, 2), digits(0, 60, 5, 7)]
    shared, own = fit(fecam(shared=True), *tasks), fit(fecam(), *tasks)
    mean = own.covariance[[0, 1, 2, 5, 7]].mean(0)
    torch.testing.assert_close(shared.covariance[0], mean)


def test_one_example_and_dead_features_are_no_trouble(digits: Digits) -> None:
    method = fecam()
    with torch.no_grad():
        method.backbone.get_parameter("layers.0.weight")[:4] = 0
    scores: Tensor = fit(method, digits(0, 1, 0), digits(0, 20, 1)).predict(digits(0, 30).x)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"gamma1": -1.0}, r"model\.gamma1=-1\.0"),
        ({"gamma2": -0.5}, r"model\.gamma2=-0\.5"),
        ({"tukey": 0.0}, r"model\.tukey=0\.0: out of range; must be above 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fecam(**changed)


@pytest.mark.parametrize("shared", [True, False])
def test_the_contract_of_a_method(shared: bool) -> None:
    check_method(FeCAM, {**OPTIONS, "shared": shared, "base_epochs": int(shared)})
