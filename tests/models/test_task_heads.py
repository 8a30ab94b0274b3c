"""Slices of the scores: whose they are, how far the future reaches, the contrast in each."""

from __future__ import annotations

import pytest
import torch

from perdure.datasets.classes import Classes
from perdure.models.base import Task
from perdure.models.contrastive import supervised_contrastive
from perdure.models.task_heads import TaskHeads

ORDER = [4, 1, 7, 2, 0, 3, 5, 6, 8, 9]
PARTS = [ORDER[:3], ORDER[3:5], ORDER[5:6], ORDER[6:]]


def grown(last: int) -> TaskHeads:
    heads, seen = TaskHeads(10), Classes()
    for index, classes in enumerate(PARTS[: last + 1]):
        past, seen = seen, seen | classes
        heads.grow(Task(index, Classes(classes), seen, past=past, n_tasks=4))
    return heads


@pytest.mark.parametrize("last", range(4))
def test_every_class_has_its_task(last: int) -> None:
    heads = grown(last)
    owner = {c: t for t, part in enumerate(PARTS[: last + 1]) for c in part}
    assert heads.task_of.tolist() == [owner.get(c, -1) for c in range(10)]
    assert heads.is_past.tolist() == [owner.get(c, last) < last for c in range(10)]
    future = sorted(c for part in PARTS[last + 1 :] for c in part)
    assert list(heads.future) == future
    assert sorted(c for head in heads.heads for c in head) == future
    assert len(heads.heads) == 3 - last
    sizes = [len(head) for head in heads.heads]
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert not heads.state_dict()


def test_more_tasks_than_classes_to_come_leave_no_empty_head() -> None:
    heads = TaskHeads(4)
    heads.grow(Task(0, Classes([0, 1]), Classes([0, 1]), n_tasks=5))
    assert [list(head) for head in heads.heads] == [[2], [3]]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_how_far_the_future_reaches(last: int) -> None:
    """Over the examples alone where it reaches too far."""
    heads, z = grown(last), torch.randn(30, 10, generator=torch.Generator().manual_seed(1))
    seen = [c for part in PARTS[: last + 1] for c in part]
    y = torch.tensor(seen)[torch.arange(30) % len(seen)]
    excess = []
    for row, label in zip(z.tolist(), y.tolist(), strict=True):
        own = next(part for part in PARTS if label in part)
        far = max(row[c] for c in range(10) if c not in seen)
        excess.append(far + 0.3 - max(row[c] for c in own))
    above = [value for value in excess if value > 0]
    assert 0 < len(above) < 30
    assert float(heads.exceeding(z, y, 0.3)) == pytest.approx(sum(above) / len(above), rel=1e-5)
    low = z.index_fill(1, torch.tensor(list(heads.future)), -20)
    assert float(heads.exceeding(low, y, 0.3)) == 0


def test_contrast_is_the_mean_over_the_heads() -> None:
    heads, z = grown(0), torch.randn(12, 10, generator=torch.Generator().manual_seed(2))
    y, each = torch.arange(12) % 3, []
    for head in heads.heads:
        part = z[:, list(head)]
        each.append(supervised_contrastive(part / part.norm(dim=1, keepdim=True), y, 5.0))
    assert len(each) == 3
    torch.testing.assert_close(heads.contrast(z, y, 5.0), sum(each) / 3)  # type: ignore[arg-type]
