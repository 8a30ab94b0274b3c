"""General continual learning, without task boundaries: MNIST-360, a stream of rotating digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.classes import Classes
from perdure.datasets.corruption import Corruption
from perdure.datasets.rotation import rotated
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError


class RotatingPairs(Scenario):
    """MNIST-360: one stream of pairs of classes, each example turned a little further.

    Buzzega et al. 2020, "Dark experience for general continual learning", sec. 5 and appendix A:
    the pairs (0, 1), (1, 2), …, (7, 8), (8, 0) follow one another, in three rounds. A class is in
    two pairs of a round, so its examples are divided equally, at random, into six groups, one a
    pair. Within a pair the examples of its classes are mixed in proportion: every batch has its
    share of both. The k-th example of class d, of n, is turned by (d - 1) · 60° + k · 360°/n; those
    of the test set by k · 360°/n, in the order of the data set. 9 is left out, since a turned 6
    cannot be told from it.

    There is a single task, of index 0, and no boundary is ever known; an epoch comes in its order
    and is the whole stream. The test set is measured whole: its average accuracy is the accuracy
    among the labels that have occurred.

    Not as in Mammoth's code, whose iterators restart at each batch: it trains on examples drawn
    with replacement, and its 8991 test images are 144 different ones; here each training and each
    test example comes exactly once. A batch may reach over two pairs, where that code cuts it.
    Wrong labels (`Corruption`) are of any class, and the stream is made of them.

    Args:
        arrays, seed, validation, class_order, device, corruption: see `Scenario`; the class order
            is one of the classes that are left.
        n_tasks: must be 1, or None.
        rounds: how often each pair comes.
        left_out: how many of the last classes of the data set are left out.

    Raises:
        UserError: a number is out of range, or fewer than three classes are left.
    """

    kind = "general-continual"
    akin = "class-incremental"
    accuracies = ("class_il",)
    boundaries = False
    shuffles = False

    def __init__(
        self,
        arrays: Arrays,
        n_tasks: int | None = None,
        seed: int = 0,
        validation: float = 0.0,
        class_order: Sequence[int] | str | None = None,
        device: torch.device | str = "cpu",
        corruption: Corruption | None = None,
        rounds: int = 3,
        left_out: int = 1,
    ) -> None:
        if n_tasks not in (None, 1):
            raise UserError(f"dataset.n_tasks={n_tasks}: a stream without boundaries is one task")
        if rounds < 1:
            raise UserError(f"dataset.scenario.rounds={rounds}: must be 1 or more")
        kept = len(arrays.classes) - left_out
        if left_out < 0 or kept < 3:
            raise UserError(
                f"dataset.scenario.left_out={left_out}: must be 0 or more and leave at least three "
                f"of the {len(arrays.classes)} classes"
            )
        self.rounds = rounds
        rows = [(split.y < kept).nonzero().squeeze(1) for split in (arrays.train, arrays.test)]
        parts = [
            Split(split.x[row], split.y[row])
            for split, row in zip((arrays.train, arrays.test), rows, strict=True)
        ]
        few = Arrays(parts[0], parts[1], arrays.classes[:kept])
        super().__init__(few, 1, seed, validation, class_order, device, corruption)
        self._held_out_ids = rows[self.split == "test"][self._held_out_ids]

    def classes(self, task: int) -> Classes:
        return Classes(range(self.n_classes))

    def label(self, task: int) -> str:
        return f"a stream of rotating {', '.join(self.class_names)}"

    def seen(self, task: int, drawn: int | None = None) -> Classes:
        if task < 0:
            return Classes()
        if drawn is None:
            return self._after[-1]
        return self._after[int(np.searchsorted(self._first, drawn, side="left"))]

    @cached_property
    def _stream(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of the training examples in the order of the stream, and their angles in degrees."""
        labels = self._train.y.cpu().numpy()
        groups, degrees = [], np.zeros(len(labels))
        for c in range(self.n_classes):
            generator = self.streams.numpy("stream", part=self.class_order[c])
            rows = generator.permutation(np.flatnonzero(labels == c))
            degrees[rows] = (c - 1) * 60 + np.arange(len(rows)) * 360 / max(1, len(rows))
            groups.append(iter(np.array_split(rows, 2 * self.rounds)))
        pairs = [(c, (c + 1) % self.n_classes) for c in range(self.n_classes)] * self.rounds
        order = np.concatenate([_mixed(next(groups[a]), next(groups[b])) for a, b in pairs])
        return order, degrees[order]

    @cached_property
    def _after(self) -> list[Classes]:
        """The labels seen after none, one, two, … of them have occurred."""
        labels = self._train.y.cpu().numpy()[self._stream[0]]
        found, first = np.unique(labels, return_index=True)
        by_time = found[np.argsort(first)].tolist()
        return [Classes(by_time[:n]) for n in range(len(by_time) + 1)]

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """Where each of these labels occurs first, ascending."""
        labels = self._train.y.cpu().numpy()[self._stream[0]]
        return np.sort(np.unique(labels, return_index=True)[1])

    @cached_property
    def _test_degrees(self) -> NDArray[np.float64]:
        """The angle of each test example in degrees, in the data set's order."""
        labels = self._held_out.y.cpu().numpy()
        degrees = np.zeros(len(labels))
        for c in range(self.n_classes):
            rows = np.flatnonzero(labels == c)
            degrees[rows] = np.arange(len(rows)) * 360 / max(1, len(rows))
        return degrees

    def _take(self, split: Split, task: int) -> Split:
        if split is not self._train:
            return Split(rotated(split.x, self._test_degrees), split.y)
        order, degrees = self._stream
        rows = torch.from_numpy(order).to(split.x.device)
        return Split(rotated(split.x.index_select(0, rows), degrees), split.y.index_select(0, rows))

    def _count(self, split: Split, task: int) -> int:
        if type(self)._take is not RotatingPairs._take:  # a subclass that takes others
            return super()._count(split, task)
        return len(split)

    def _rows(self, y: Tensor, task: int) -> Tensor | None:
        return torch.arange(len(y)) if type(self)._take is RotatingPairs._take else None


def _mixed(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Both, each in its order, such that every stretch has its share of either."""
    places = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in (first, second)]
    together = np.argsort(np.concatenate(places), kind="stable")
    merged: NDArray[np.int64] = np.concatenate([first, second])[together]
    return merged
