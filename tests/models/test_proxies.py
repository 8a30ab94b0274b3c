"""NCA against loops, the released formula's two defects, k-means."""

from __future__ import annotations

import math

import pytest
import torch

from perdure.models.proxies import k_means, nca, released_nca


def some(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(12) % 5
    s = 2 * torch.randn(12, 5, generator=generator)
    s[0, y[0]] = 9.0  # far above the others
    return s, y


@pytest.mark.parametrize("margin", [0.0, 0.6, 3.0])
def test_nca_is_the_paper_s(margin: float) -> None:
    """The label's class is not in the denominator; a negative logarithm counts as 0."""
    s, y = some()
    wanted = []
    for row, label in zip(s.tolist(), y.tolist(), strict=True):
        others = sum(math.exp(v) for i, v in enumerate(row) if i != label)
        wanted.append(max(0.0, -math.log(math.exp(row[label] - margin) / others)))
    assert wanted[0] == 0.0
    assert min(wanted[1:]) > 0
    assert nca(s, y, margin).tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_released_formula_is_that_of_the_code() -> None:
    """As that code does it, step by step: any margin gives the same, and it is another."""
    s, y = some()

    def peer(margin: float) -> torch.Tensor:
        similarities = s - margin
        similarities = similarities - similarities.max(1)[0].view(-1, 1)
        own = torch.zeros_like(similarities)
        rows = torch.arange(len(y))
        own[rows, y] = similarities[rows, y]
        return -(similarities[rows, y] - (similarities - own).exp().sum(1).log()).clamp(max=0)

    torch.testing.assert_close(released_nca(s, y), peer(0.0))
    torch.testing.assert_close(released_nca(s, y), peer(0.6))
    assert not torch.allclose(released_nca(s, y), nca(s, y, 0.6), atol=0.1)


def test_with_one_class_alone_loss_and_gradient_are_zero() -> None:
    s = torch.randn(4, 1, requires_grad=True)
    loss = nca(s, torch.zeros(4, dtype=torch.int64), 0.6).sum()
    loss.backward()
    assert loss == 0
    assert s.grad is not None
    assert not s.grad.any()


def test_k_means_finds_what_is_far_apart() -> None:
    torch.manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    points = (centers[:, None] + torch.randn(3, 40, 2)).flatten(0, 1)
    found = min(
        (k_means(points, 3) for _ in range(20)),
        key=lambda c: float(torch.cdist(points, c).min(1).values.square().sum()),
    )
    means = points.view(3, 40, 2).mean(1)
    torch.testing.assert_close(found[found.sum(1).argsort()], means[means.sum(1).argsort()])


def test_k_means_ends_where_every_center_is_the_mean_of_its_points() -> None:
    torch.manual_seed(1)
    points = torch.randn(200, 4)
    centers = k_means(points, 5, passes=200)
    nearest = [min(range(5), key=lambda k: float((p - centers[k]).norm())) for p in points]
    for k in range(5):
        own = torch.stack([p for p, n in zip(points, nearest, strict=True) if n == k])
        torch.testing.assert_close(centers[k], own.mean(0))


def test_k_means_of_fewer_points_than_centers() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = k_means(points, 5)
    assert found.shape == (5, 2)
    assert {tuple(row) for row in found.tolist()} == {(1.0, 0.0), (0.0, 1.0)}
