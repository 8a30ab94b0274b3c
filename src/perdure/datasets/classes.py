"""Sets of class labels (of a task, of all tasks seen): columns of the scores, and back to labels.

A benchmark's tasks may hold any labels. Where they are contiguous, as in the usual benchmarks, a
selection of score columns is a slice; else it is an `index_select`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import torch
from torch import Tensor


class Classes(Sequence[int]):
    """Labels in ascending order, each once; immutable.

    Equal to a `range`, a tuple or a list of the same labels. It hashes as the tuple does, so do not
    mix it with ranges as the keys of one dictionary.

    Args:
        labels: integers of 0 or more, in any order.

    Attributes:
        start: the smallest label; 0 where there is none.
        stop: the greatest label plus 1; 0 where there is none.
        is_range: whether every label from `start` up to `stop` is there.
    """

    __slots__ = ("_indices", "_labels", "is_range", "start", "stop")

    def __init__(self, labels: Iterable[int] = ()) -> None:
        self._labels = tuple(sorted({int(label) for label in labels}))
        self._indices: dict[tuple[torch.device, bool], Tensor] = {}
        self.start = self._labels[0] if self._labels else 0
        self.stop = self._labels[-1] + 1 if self._labels else 0
        self.is_range = self.stop - self.start == len(self._labels)
        if self.start < 0:
            raise ValueError(f"labels must be 0 or more, not {self.start}")

    @classmethod
    def of(cls, labels: Iterable[int]) -> Classes:
        """`labels` themselves where they are `Classes` already."""
        return labels if isinstance(labels, Classes) else cls(labels)

    def select(self, scores: Tensor) -> Tensor:
        """The columns of these classes, [B, len], of scores [B, C]; a view where contiguous."""
        if self.is_range:
            return scores[:, self.start : self.stop]
        return scores.index_select(1, self._index(scores.device))

    def labels(self, choice: Tensor) -> Tensor:
        """Labels, int64, of columns of `select`, int64 of any shape."""
        if self.is_range:
            return choice + self.start
        return self._index(choice.device)[choice]

    def positions(self, labels: Tensor) -> Tensor:
        """Columns of `select`, int64, of labels among these classes; the inverse of `labels`."""
        if self.is_range:
            return labels - self.start if self.start else labels
        return self._index(labels.device, inverse=True)[labels]

    def mask(self, labels: Tensor) -> Tensor:
        """Which of `labels` are among these classes, bool of the same shape."""
        if self.is_range:
            return (labels >= self.start) & (labels < self.stop)
        return torch.isin(labels, self._index(labels.device))

    def _index(self, device: torch.device, inverse: bool = False) -> Tensor:
        """The labels, int64 [len]; or the position of each, int64 [stop]; made once a device."""
        if (device, inverse) not in self._indices:
            index = torch.tensor(self._labels)
            if inverse:
                index = torch.zeros(self.stop, dtype=torch.int64).index_put(
                    (index,), torch.arange(len(index))
                )
            self._indices[device, inverse] = index.to(device)
        return self._indices[device, inverse]

    def __or__(self, other: Iterable[int]) -> Classes:
        # The same object where nothing is new, whose index tensors are there already.
        new = Classes((*self, *other))
        return self if len(new) == len(self) else new

    def __sub__(self, other: Iterable[int]) -> Classes:
        taken = set(other)
        return Classes(label for label in self if label not in taken)

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __contains__(self, label: object) -> bool:
        return label in self._labels

    @overload
    def __getitem__(self, at: int) -> int: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[int, ...]: ...

    def __getitem__(self, at: int | slice) -> int | tuple[int, ...]:
        return self._labels[at]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Classes | range | tuple | list):
            return self._labels == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._labels)

    def __repr__(self) -> str:
        shown = f"range({self.start}, {self.stop})" if self.is_range else str(self._labels)
        return f"Classes({shown})"
