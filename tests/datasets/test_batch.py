"""A batch's means against torch's own, and its parts against the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch, join
from perdure.datasets.loss_scope import Scope, scope_of, scopes
from perdure.datasets.transforms import CropFlip, Scale


class Counting(Scale):
    """Counts its calls."""

    calls = 0

    def __call__(self, raw: Tensor, augmentation: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().__call__(raw, augmentation)


def batch(tiny: Arrays, start: int, stop: int, transform: Scale | None = None) -> Batch:
    """Some real digits, with made-up logits."""
    logits = torch.randn(stop - start, 10, generator=torch.Generator().manual_seed(start))
    rows = slice(start, stop)
    return Batch(
        tiny.train.x[rows], tiny.train.y[rows], transform or Scale(), None, {"logits": logits}
    )


def test_inputs_are_made_once_and_only_when_asked_for(tiny: Arrays) -> None:
    transform = Counting()
    first, other = batch(tiny, 0, 4, transform), batch(tiny, 4, 9, transform)
    both = first + other
    assert len(both) == 9
    assert transform.calls == 0
    expected = tiny.train.x[:9].float() / 255
    assert torch.equal(both.x, expected)
    assert both.x is both.x
    assert transform.calls == 1


def test_concatenation_keeps_labels_augmentation_and_shared_fields(tiny: Arrays) -> None:
    transform = CropFlip()
    choices = torch.tensor([[0, 8, 1], [4, 4, 0], [8, 0, 1], [1, 2, 0], [3, 3, 1]])
    x, y, logits = tiny.train.x[:5], tiny.train.y[:5], torch.arange(5.0)
    first = Batch(x[:2], y[:2], transform, choices[:2], {"logits": logits[:2], "extra": logits[:2]})
    other = Batch(x[2:], y[2:], transform, choices[2:], {"logits": logits[2:]})
    both = first + other
    assert torch.equal(both.x, transform(x, choices))
    assert torch.equal(both.y, y)
    assert torch.equal(both.all_y, y)
    assert torch.equal(both["logits"], logits)
    assert both.stored.keys() == {"logits"}
    assert both.total == 5


def test_an_empty_batch_is_false_and_adds_nothing(tiny: Arrays) -> None:
    empty, some = batch(tiny, 0, 0), batch(tiny, 0, 3)
    assert not empty
    assert some
    both = some + empty
    assert torch.equal(both.x, some.x)
    assert both.total == 3
    assert torch.equal((empty + some).y, some.y)
    with pytest.raises(KeyError):
        empty["features"]


def outputs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and targets of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 10, generator=generator).mul_(3).requires_grad_()
    return logits, torch.randn(n, 10, generator=generator)


def test_means_equal_torch_s(tiny: Arrays) -> None:
    """The value and the gradient: to the bit for cross-entropy, up to rounding for the square."""
    whole, (logits, target) = batch(tiny, 0, 64), outputs(64)
    pairs = [
        (whole.cross_entropy(logits), F.cross_entropy(logits, whole.y), 0.0),
        (whole.mse(logits, target), F.mse_loss(logits, target), 1e-6),
        (whole.mean(logits.square().sum(1)), logits.square().sum(1).mean(), 1e-6),
    ]
    for ours, reference, tolerance in pairs:
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=0)
        gradients = [torch.autograd.grad(value, logits)[0] for value in (ours, reference)]
        torch.testing.assert_close(*gradients, rtol=tolerance, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    n_current=st.integers(1, 20),
    n_past=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 20), max_size=4),
    past_cuts=st.lists(st.integers(0, 12), min_size=4, max_size=4),
)
def test_parts_add_up_to_the_whole(
    tiny: Arrays, n_current: int, n_past: int, cuts: list[int], past_cuts: list[int]
) -> None:
    """Shards of the batch and of the replay, some of them empty: each loss is the shards' sum."""
    current, past = batch(tiny, 0, n_current), batch(tiny, 100, 100 + n_past)
    both, (logits, _) = current + past, outputs(n_current + n_past)
    old = past["logits"]
    total = torch.zeros(3)
    spans = zip(bounds(cuts, n_current), bounds(past_cuts[: len(cuts)], n_past), strict=True)
    for (a, b), (c, d) in spans:
        part, replay = shard(current, a, b), shard(past, c, d)
        mine = torch.cat((logits[a:b], logits[n_current + c : n_current + d]))
        together = part + replay
        assert together.total == both.total
        assert sorted(together.all_y.tolist()) == sorted(both.y.tolist())
        total[0] += together.cross_entropy(mine)
        total[1] += together.mean(mine.sum(1))
        if n_past:
            total[2] += replay.mse(mine[b - a :], replay["logits"])
    whole = [
        F.cross_entropy(logits, both.y),
        logits.sum(1).mean(),
        F.mse_loss(logits[n_current:], old) if n_past else torch.zeros(()),
    ]
    torch.testing.assert_close(total, torch.stack(whole), rtol=1e-5, atol=1e-6)


def bounds(cuts: list[int], n: int) -> list[tuple[int, int]]:
    """Consecutive spans of 0…n, one more than there are cuts; some may be empty."""
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    return list(itertools.pairwise(edges))


def shard(whole: Batch, start: int, stop: int) -> Batch:
    stored = {key: value[start:stop] for key, value in whole.stored.items()}
    part = slice(start, stop)
    return Batch(
        whole.raw[part], whole.y[part], Scale(), None, stored, total=len(whole), all_y=whole.y
    )


# --- loss scope -----------------------------------------------------------------------------------

LABELS = st.sets(st.integers(0, 9), min_size=1).map(sorted)
SCOPES = st.one_of(st.none(), LABELS, LABELS.flatmap(st.permutations))


def within(tiny: Arrays, scope: Sequence[int] | None, n: int, first: int) -> Batch:
    """A batch of real digits whose labels are in `scope`."""
    allowed = torch.tensor(range(10) if scope is None else list(scope))
    rows = torch.isin(tiny.train.y, allowed).nonzero().squeeze(1)[first : first + n]
    known: Scope = None if scope is None else scope_of(scope)
    return Batch(tiny.train.x[rows], tiny.train.y[rows], Scale(), scope=known)


def by_hand(logits: Tensor, y: Tensor, scope: Sequence[int] | None) -> Tensor:
    """The summed cross-entropy over an explicit list of columns."""
    columns = list(range(10) if scope is None else scope)
    target = torch.tensor([columns.index(label) for label in y.tolist()], dtype=torch.int64)
    return F.cross_entropy(logits[:, columns], target, reduction="sum")


@settings(deadline=None, max_examples=80)
@given(
    given_scopes=st.lists(SCOPES, min_size=1, max_size=3),
    sizes=st.lists(st.integers(0, 7), min_size=3, max_size=3),
    cuts=st.lists(st.integers(0, 21), max_size=4),
)
def test_each_example_s_loss_is_over_its_own_scope(
    tiny: Arrays, given_scopes: list[list[int] | None], sizes: list[int], cuts: list[int]
) -> None:
    """Of joined batches, of parts of them (each shard's, some empty), and of joined parts."""
    batches = [within(tiny, s, n, 3) for s, n in zip(given_scopes, sizes, strict=False)]
    whole = join(batches)
    n = len(whole)
    if not n:
        return
    logits = outputs(n)[0]
    pieces = logits.split([len(batch) for batch in batches])
    sums = [by_hand(z, b.y, s) for z, b, s in zip(pieces, batches, given_scopes, strict=True)]
    expected = torch.stack(sums).sum() / n
    gradient = torch.autograd.grad(expected, logits, retain_graph=True)[0]
    parts = [(whole.part(a, b), logits[a:b]) for a, b in bounds(cuts, n)]
    assert sum(len(part) for part, _ in parts) == n
    together = join([part for part, _ in parts])
    assert together.scopes == whole.scopes
    for loss in (
        whole.cross_entropy(logits),
        torch.stack([part.cross_entropy(z) for part, z in parts]).sum(),
        # Each part divides by the global size, which their join takes for the sum of all.
        together.cross_entropy(logits) * together.total / n,
    ):
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", [None, range(2, 6), (7, 3, 4)], ids=["full", "range", "labels"])
def test_logits_and_labels_in_scope(tiny: Arrays, scope: Scope) -> None:
    some, columns = within(tiny, scope, 9, 0), list(range(10) if scope is None else scope)
    logits, _ = outputs(9)
    assert torch.equal(some.in_scope(logits), logits[:, columns])
    assert [columns[place] for place in some.y_in_scope] == some.y.tolist()
    assert torch.equal(
        some.cross_entropy(logits), F.cross_entropy(some.in_scope(logits), some.y_in_scope)
    )
    assert (some.in_scope(logits) is logits) == (scope is None)
    both = some + within(tiny, range(1), 2, 0)
    for ask in (lambda: both.in_scope(logits), lambda: both.y_in_scope):
        with pytest.raises(ValueError, match="different loss scopes"):
            ask()


def test_logits_cut_behind_the_scope_will_do(tiny: Arrays) -> None:
    """As LwF and ER-ACE pass them."""
    some, (logits, _) = within(tiny, range(2, 6), 9, 0), outputs(9)
    assert torch.equal(some.cross_entropy(logits[:, :6]), some.cross_entropy(logits))


def test_a_label_outside_of_its_scope_is_an_error(tiny: Arrays) -> None:
    for scope in (range(2, 4), (2, 8)):
        some = Batch(tiny.train.x[:4], torch.tensor([2, 3, 5, 2]), Scale(), scope=scope)
        with pytest.raises(IndexError, match="out of bounds"):
            some.cross_entropy(outputs(4)[0])


@pytest.mark.parametrize(
    ("classes", "seen", "current", "all_seen"),
    [
        (range(4, 6), range(6), range(4, 6), range(6)),
        ((4, 5), (0, 1, 2, 3, 4, 5), range(4, 6), range(6)),
        ((8, 2), (1, 0, 8, 2), (8, 2), (1, 0, 8, 2)),
    ],
    ids=["ranges", "consecutive", "any"],
)
def test_scopes_of_a_task(
    classes: Sequence[int], seen: Sequence[int], current: Scope, all_seen: Scope
) -> None:
    task = SimpleNamespace(classes=classes, seen=seen)
    assert scopes("full", task) == (None, None)
    assert scopes("seen", task) == (all_seen, all_seen)
    assert scopes("current", task) == (current, all_seen)
    with pytest.raises(ValueError, match="loss_scope=own: must be full, seen or current"):
        scopes("own", task)
