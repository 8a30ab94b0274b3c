"""Class orders that are easy or hard: extremes of the similarity between tasks.

A few random orders say little of how far accuracy depends on the order. Lai et al. 2026 ("The Lie
of the Average", ICLR, arXiv 2509.22580) find that accuracy rises with the similarity between tasks
and search orders at both ends of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STARTS = 10
"""From how many classes the search starts, at most."""


@dataclass(frozen=True)
class Extremes:
    """Two orders, and where random ones lie.

    Attributes:
        easy: class numbers in the order of the highest similarity between tasks that was found.
        hard: the same of the lowest.
        similarity: of easy and of hard.
        random: of so many random orders, sorted.
    """

    easy: tuple[int, ...]
    hard: tuple[int, ...]
    similarity: tuple[float, float]
    random: tuple[float, ...]


def class_similarity(means: Array) -> Array:
    """Cosine similarity of class means, [C, C].

    Args:
        means: [C, d], one mean a class; centered on their own mean first, since all images share
            much that tells no class apart.
    """
    centered = means - means.mean(0)
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    unit: Array = centered / np.where(norms > 0, norms, 1.0)
    similarity: Array = unit @ unit.T
    return similarity


def between_tasks(similarity: Array, order: Sequence[int], sizes: Sequence[int]) -> float:
    """Mean similarity of two classes of different tasks.

    Args:
        similarity: [C, C], symmetric.
        order: class numbers, [C].
        sizes: classes of each task; their sum is C.
    """
    task = np.repeat(np.arange(len(sizes)), sizes)
    ordered = similarity[np.ix_(order, order)]
    apart = task[:, None] != task[None, :]
    return float(ordered[apart].mean()) if apart.any() else 0.0


def extremes(means: Array, sizes: Sequence[int], n_random: int = 1000, seed: int = 0) -> Extremes:
    """The easy and the hard order of classes with these means.

    Tasks are filled greedily: for the easy order each next class is the one least like those that
    its task has already, so that like classes are in different tasks; for the hard order the most
    like one. Then pairs of classes change places as long as that helps. The search of the paper
    takes similarities of text embeddings; here they are of class means.

    Args:
        means: [C, d], one mean a class.
        sizes: classes of each task; their sum is C.
        n_random: random orders to compare with.
        seed: of these.
    """
    similarity = class_similarity(means)
    easy, hard = (_searched(sign * similarity, sizes) for sign in (1.0, -1.0))
    generator = np.random.default_rng(seed)
    drawn = (generator.permutation(len(means)).tolist() for _ in range(n_random))
    return Extremes(
        easy,
        hard,
        (between_tasks(similarity, easy, sizes), between_tasks(similarity, hard, sizes)),
        tuple(sorted(between_tasks(similarity, order, sizes) for order in drawn)),
    )


def _searched(similarity: Array, sizes: Sequence[int]) -> tuple[int, ...]:
    """The order of least similarity within tasks, which is the highest between them."""
    n = len(similarity)
    starts = range(0, n, -(-n // _STARTS))
    found = [_improved(similarity, _greedy(similarity, sizes, start), sizes) for start in starts]
    return min(found, key=lambda order: (-between_tasks(similarity, order, sizes), order))


def _greedy(similarity: Array, sizes: Sequence[int], start: int) -> list[int]:
    """Tasks filled one after another, the first from class `start` on."""
    left = [*range(start, len(similarity)), *range(start)]
    order: list[int] = []
    for size in sizes:
        task = [left.pop(0)]
        while len(task) < size:
            best = min(left, key=lambda label: (similarity[label, task].sum(), label))
            left.remove(best)
            task.append(best)
        order += task
    return order


def _improved(similarity: Array, order: list[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """`order` with pairs of classes exchanged as long as that lowers the sum within tasks."""
    at = np.array(order)
    member = np.repeat(np.eye(len(sizes)), sizes, axis=0)  # [place, task]
    while True:
        ordered = similarity[np.ix_(at, at)]
        with_task = ordered @ member  # of the class at a place with all of a task, [place, task]
        cross = with_task @ member.T  # with the task of another place, [place, place]
        own = np.diag(cross)
        # Each leaves its own task, so neither is compared with itself.
        alone = np.diag(ordered)[:, None] + np.diag(ordered) - 2 * ordered
        change = cross + cross.T - own[:, None] - own + alone
        change[member @ member.T > 0] = 0.0
        i, j = np.unravel_index(change.argmin(), change.shape)
        if change[i, j] > -1e-9:
            return tuple(at.tolist())
        at[[i, j]] = at[[j, i]]
