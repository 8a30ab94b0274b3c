"""Heads against loops over classes and proxies; growing ones against fixed ones; imprinting."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.heads import NCM, UNSEEN, Cosine, Head, Identity, Linear, Proxy, Simplex
from perdure.backbones.mlp import MLP
from perdure.errors import UserError
from perdure.models.per_example import squared_gradients

D, C = 6, 9
MAKERS: dict[str, Callable[[bool], Head]] = {
    "linear": lambda growing: Linear(D, C, growing),
    "cosine": lambda growing: Cosine(D, C, growing),
    "proxy": lambda growing: Proxy(D, C, growing, proxies=4),
}
EACH = pytest.mark.parametrize("kind", MAKERS)
TASKS = st.lists(st.lists(st.integers(0, C - 1), max_size=5), max_size=5)
"""Labels of each task: in any order, some again, some never."""


def made(kind: str, growing: bool = False, tasks: Sequence[Sequence[int]] = ()) -> Head:
    torch.manual_seed(3)
    head = MAKERS[kind](growing)
    for classes in tasks:
        head.grow(classes)
    with torch.no_grad():
        for name, value in head.named_parameters():
            if name == "eta":
                value.fill_(2.5)
    return head.double()


def features(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=generator, dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def expected(kind: str, head: Head, x: Tensor) -> Tensor:
    """The papers' formulas, one example and one class at a time."""
    block = copy.deepcopy(head.blocks[0]).requires_grad_(False)
    scores = torch.empty(len(x), C, dtype=torch.float64)
    for b, f in enumerate(x):
        for c in range(C):
            w = block.weight[c]
            if kind == "linear":
                scores[b, c] = float(w @ f) + float(block.bias[c])
            elif kind == "cosine":
                scores[b, c] = 2.5 * cosine(w, f)
            else:
                similar = [cosine(proxy, f) for proxy in w]
                total = sum(math.exp(s) for s in similar)
                scores[b, c] = 2.5 * sum(math.exp(s) / total * s for s in similar)
    return scores


@EACH
def test_scores_are_those_of_the_formula(kind: str) -> None:
    head, x = made(kind), features(5)
    torch.testing.assert_close(head(x), expected(kind, head, x))
    if not isinstance(head, Linear):
        torch.testing.assert_close(2.5 * head.cosines(x), head(x))


@EACH
def test_gradients_are_those_of_differences(kind: str) -> None:
    head, x = made(kind, True, [[2, 0], [5]]), features(3).requires_grad_()
    seen = list(head.classes)

    def scores(x: Tensor, *_: Tensor) -> Tensor:
        return head(x)[:, seen]

    assert torch.autograd.gradcheck(scores, (x, *head.parameters()))
    F.cross_entropy(head(x), torch.tensor([2, 0, 5])).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@settings(deadline=None, max_examples=40)
@given(kind=st.sampled_from(sorted(MAKERS)), tasks=TASKS, n=st.integers(0, 4))
def test_a_growing_head_is_the_fixed_one_on_the_classes_that_it_has(
    kind: str, tasks: list[list[int]], n: int
) -> None:
    """With the same weights: scores, and the loss over all columns and over those alone."""
    fixed, growing, x = made(kind), made(kind, True, tasks), features(n)
    seen = list(dict.fromkeys(c for classes in tasks for c in classes))
    assert list(growing.classes) == seen
    assert len(growing.blocks) <= len(tasks)
    with torch.no_grad():
        rows = [row for block in growing.blocks for row in zip(*block.parameters(), strict=True)]
        for label, row in zip(seen, rows, strict=True):
            for whole, own in zip(fixed.blocks[0].parameters(), row, strict=True):
                own.copy_(whole[label])
    scores = growing(x)
    assert scores.shape == (n, C)
    torch.testing.assert_close(scores[:, seen], fixed(x)[:, seen], rtol=1e-12, atol=1e-12)
    unseen = [c for c in range(C) if c not in seen]
    assert (scores[:, unseen] == UNSEEN).all()
    if seen and n:
        y = torch.arange(n) % len(seen)
        over_all = F.cross_entropy(scores, torch.tensor(seen)[y])
        torch.testing.assert_close(over_all, F.cross_entropy(fixed(x)[:, seen], y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unseen_is_finite_and_without_weight_in_half_precision(dtype: torch.dtype) -> None:
    scores = torch.tensor([[3.0, -7.0, UNSEEN]], dtype=dtype).requires_grad_()
    loss = F.cross_entropy(scores.float(), torch.tensor([1]))
    loss.backward()
    assert scores.isfinite().all()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0


@EACH
def test_growth_is_replayed_and_then_the_state_is_loaded(kind: str) -> None:
    tasks = [[0, 1], [4, 3], [3, 8]]
    grown = made(kind, True, tasks)
    torch.manual_seed(99)
    again = MAKERS[kind](True)
    for classes in tasks:
        again.grow(classes)
    again.double().load_state_dict(grown.state_dict())
    x = features(4)
    assert torch.equal(again(x), grown(x))
    assert torch.equal(copy.deepcopy(grown)(x), grown(x))
    before = {name: value.clone() for name, value in again.state_dict().items()}
    again.grow([1, 8, 0])  # which it has
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        made(kind, True, tasks[:1]).load_state_dict(grown.state_dict())


@EACH
def test_growing_appends_and_moves_nothing(kind: str) -> None:
    head = made(kind, True, [[0, 1]])
    first = list(head.parameters())
    values = [p.detach().clone() for p in first]
    head.grow(range(4))
    for parameter, before in zip(first, values, strict=True):
        assert any(parameter is p for p in head.parameters())
        assert torch.equal(parameter, before)
    assert head.classes == (0, 1, 2, 3)
    with pytest.raises(ValueError, match=f"has {C} columns"):
        head.grow([C])


@pytest.mark.parametrize("kind", ["cosine", "proxy"])
@pytest.mark.parametrize("growing", [False, True])
def test_imprinted_weights_point_along_the_means(kind: str, growing: bool) -> None:
    head = made(kind, growing, [[0, 1, 2], [5, 4]])
    shape = head.blocks[0].weight.shape[1:]
    means = torch.randn(2, *shape, dtype=torch.float64)
    before = {c: head.blocks[0].weight[c].detach().clone() for c in range(3)}
    others = [c for c in head.classes if c not in (4, 5)]
    length = torch.stack([weight_of(head, c).norm(dim=-1).mean() for c in others]).mean()
    head.imprint([4, 5], means)
    for label, mean in zip((4, 5), means, strict=True):
        directions = F.normalize(mean, dim=-1)
        torch.testing.assert_close(weight_of(head, label), directions * length)
        if kind == "cosine":
            assert head(mean[None])[0, label].item() == pytest.approx(2.5)
    assert all(torch.equal(weight_of(head, c), before[c]) for c in before)
    with pytest.raises(ValueError, match="must be classes that have weights"):
        head.imprint([4], means)
    if growing:
        with pytest.raises(ValueError, match="must be classes that have weights"):
            head.imprint([4, 7], means)


def weight_of(head: Head, label: int) -> Tensor:
    rows = [row for block in head.blocks for row in block.weight.detach()]
    return rows[head.classes.index(label)]


# --- nearest class mean, none ---------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    labels=st.lists(st.integers(0, C - 1), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=3),
    metric=st.sampled_from(["cosine", "euclidean"]),
    order=st.randoms(use_true_random=False),
)
def test_class_means_do_not_depend_on_batches_or_order(
    labels: list[int], cuts: list[int], metric: str, order: object
) -> None:
    x, y = features(len(labels), 1), torch.tensor(labels)
    rows = list(range(len(labels)))
    order.shuffle(rows)  # type: ignore[attr-defined]
    head = NCM(D, C, metric).double()  # type: ignore[arg-type]
    for part in torch.tensor(rows).tensor_split(sorted(cuts)):
        head.update(x[part], y[part])
    probe = features(3, 2)
    scores = head(probe)
    for c in range(C):
        own = x[y == c]
        if not len(own):
            assert (scores[:, c] == UNSEEN).all()
            continue
        mean = own.mean(0)
        for f, score in zip(probe, scores[:, c], strict=True):
            wanted = cosine(f, mean) if metric == "cosine" else -float((f - mean).square().sum())
            assert score.item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    restored = NCM(D, C, metric).double()  # type: ignore[arg-type]
    restored.load_state_dict(head.state_dict())
    assert torch.equal(restored(probe), scores)
    head.reset()
    assert (head(probe) == UNSEEN).all()


def test_the_metric_of_class_means_is_one_of_two() -> None:
    with pytest.raises(UserError, match=r"^head\.metric=l1: must be cosine or euclidean$"):
        NCM(D, C, "l1")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^head\.proxies=0: must be an integer, 1 or more$"):
        Proxy(D, C, proxies=0)


# --- regular simplex ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_the_vertices_are_those_of_a_regular_simplex(n: int) -> None:
    """Length 1, every pairwise cosine −1 / (n − 1), and the center in 0."""
    vertices = Simplex(D, n).vertices.double()
    assert vertices.shape == (n, n - 1)
    wanted = torch.full((n, n), -1 / (n - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(vertices @ vertices.T, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(vertices.sum(0), torch.zeros(n - 1).double(), rtol=0, atol=1e-5)


def test_the_scores_of_a_simplex_are_products_with_its_vertices() -> None:
    head, x = Simplex(D, C).double(), features(4)
    scores = head(x)
    for f, row in zip(x, scores, strict=True):
        u = head.project.weight @ f + head.project.bias
        for c in range(C):
            torch.testing.assert_close(row[c], head.vertices[c] @ u)
    assert set(head.state_dict()) == {"project.weight", "project.bias"}
    assert not head.vertices.requires_grad
    with pytest.raises(UserError, match=r"^head=simplex: takes two classes or more$"):
        Simplex(D, 1)


# --- on a backbone --------------------------------------------------------------------------------


class Own(Backbone):
    """A user's, with a head of its own."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_a_backbone_s_own_head_does_not_grow() -> None:
    network, x = Own(), torch.rand(2, 1, 2, 2)
    assert not network.grows
    before = list(network.state_dict())
    network.grow([0, 1])
    assert list(network.state_dict()) == before
    assert network(x).shape == (2, 3)


@pytest.mark.parametrize("kind", ["cosine", "proxy"])
def test_fisher_information_of_a_growing_head_is_autograd_s(kind: str) -> None:
    """`squared_gradients` sees parameters that are no linear layer's, and those of blocks."""
    torch.manual_seed(0)
    network = MLP((1, 2, 3), C, hidden=[D])
    network.head = MAKERS[kind](True)
    network.grow([1, 0])
    network.grow([3])
    network.double().eval()
    assert network.grows
    assert network.rows_are_independent
    x, y = torch.rand(3, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 3, 1])
    wanted = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for row, label in zip(x.split(1), y.split(1), strict=True):
        loss = F.cross_entropy(network(row), label)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        for total, gradient in zip(wanted.values(), gradients, strict=True):
            total += gradient.square()
    found = squared_gradients(network, x, y)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_without_a_head_the_features_are_the_output() -> None:
    network, x = MLP((1, 2, 3), C, hidden=[D]), torch.rand(2, 1, 2, 3)
    network.head = Identity()
    assert torch.equal(network(x), network.features(x))
