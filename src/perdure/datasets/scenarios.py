"""Scenarios (benchmarks): class-incremental splits, permuted pixels, rotations, joint training.

They turn arrays into a sequence of tasks; class order and validation split are made here too.

A scenario is a function of (arrays, dataset settings, seed) alone: class order, permutations,
angles and the validation split come from streams of their own, so they depend neither on the
method nor on how much randomness was used before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from perdure.config.rules import RULES
from perdure.datasets.arrays import Arrays, Split
from perdure.errors import UserError
from perdure.randomness import Streams

CACHE_BYTES = 256 * 10**6
"""Bytes of test sets that are kept as tasks show them: all of the usual benchmarks, and 32 tasks of
permuted MNIST. An evaluation goes through all tasks in turn, so the first ones that fit are kept;
what is made anew costs a fraction of the forward pass over it."""


class Scenario(ABC):
    """A sequence of tasks over one set of arrays, which live on `device` as uint8.

    Args:
        arrays: the data set.
        n_tasks: how many tasks to make of it.
        seed: the benchmark's seed.
        validation: fraction of each class's training examples held out; evaluation is then made
            on these instead of on the test set.
        class_order: class numbers in the order they are to appear, or "random" (drawn from the
            seed); None keeps the data set's order. Labels become positions in this order.
        device: where the arrays live.
    """

    kind: ClassVar[str]
    accuracies: ClassVar[tuple[str, ...]]
    """Names of the accuracies that an evaluation computes."""

    def __init__(
        self,
        arrays: Arrays,
        n_tasks: int,
        seed: int = 0,
        validation: float = 0.0,
        class_order: Sequence[int] | str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        RULES["dataset.seed"].check("dataset.seed", seed)
        if n_tasks < 1:
            raise UserError(f"dataset.n_tasks={n_tasks}: must be 1 or more")
        if not 0 <= validation < 1:
            raise UserError(f"dataset.validation={validation}: must be a fraction in [0, 1)")
        self.n_tasks = n_tasks
        self.n_classes = len(arrays.classes)
        self.streams = Streams(seed)
        self.class_order = self._class_order(class_order)
        self.class_names = tuple(arrays.classes[c] for c in self.class_order)
        position = torch.empty(self.n_classes, dtype=torch.int64)
        position[torch.tensor(self.class_order)] = torch.arange(self.n_classes)
        train, held_out = arrays.train, arrays.test
        self.split = "test"
        self._held_out_ids = torch.arange(len(held_out))
        if validation > 0:
            held = self._held_out_rows(arrays.train.y, validation)
            train, held_out = _rows_of(arrays.train, ~held), _rows_of(arrays.train, held)
            self.split = "validation"
            self._held_out_ids = held.nonzero().squeeze(1)
        self._train = Split(train.x.to(device), position[train.y].to(device))
        self._held_out = Split(held_out.x.to(device), position[held_out.y].to(device))
        self._cache: dict[int, Split] = {}
        self._cached_bytes = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an example."""
        channels, height, width = self._train.x.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return self._train.x.device

    def train(self, task: int) -> Split:
        """Training examples of `task`, uint8 [N, C, H, W] and int64 [N], in the source's order."""
        return self._take(self._train, task)

    def evaluation(self, task: int) -> Split:
        """Examples that measure accuracy on `task`: the test set's or the held-out ones."""
        if task in self._cache:
            return self._cache[task]
        split = self._take(self._held_out, task)
        if self._cached_bytes + split.x.nbytes <= CACHE_BYTES:
            self._cache[task] = split
            self._cached_bytes += split.x.nbytes
        return split

    def evaluation_ids(self, task: int) -> Tensor | None:
        """Where the examples of `evaluation(task)` are in the source, int64 [N] on the CPU.

        Indices into its test split, or, with held-out examples, into its training split. None
        for a subclass that takes others and does not say which.
        """
        rows = self._rows(self._held_out.y.cpu(), task)
        return None if rows is None else self._held_out_ids[rows]

    def n_train(self, task: int) -> int:
        """How many training examples `task` has."""
        return self._count(self._train, task)

    def n_evaluation(self, task: int) -> int:
        """How many examples measure accuracy on `task`."""
        return self._count(self._held_out, task)

    def joint(self) -> Split:
        """The training examples of all tasks as one; beside it there is never more than a task."""
        ends = list(accumulate(self.n_train(task) for task in range(self.n_tasks)))
        x = self._train.x.new_empty((ends[-1], *self.shape))
        y = self._train.y.new_empty(ends[-1])
        for task, end in enumerate(ends):
            part = self.train(task)
            x[end - len(part) : end], y[end - len(part) : end] = part.x, part.y
        return Split(x, y)

    @abstractmethod
    def classes(self, task: int) -> range:
        """The labels that occur in `task`."""

    @abstractmethod
    def label(self, task: int) -> str:
        """What `task` holds, in a few words."""

    @abstractmethod
    def _take(self, split: Split, task: int) -> Split:
        """The part of `split` that belongs to `task`."""

    def _count(self, split: Split, task: int) -> int:
        """How many examples `_take` gives; a subclass may know without copying them."""
        return len(self._take(split, task))

    def _rows(self, y: Tensor, task: int) -> Tensor | None:
        """Which examples `_take` gives of a split with labels `y`, in their order; int64 [N]."""
        return None

    def _class_order(self, order: Sequence[int] | str | None) -> list[int]:
        if order is None:
            return list(range(self.n_classes))
        if order == "random":
            return list(map(int, self.streams.numpy("class order").permutation(self.n_classes)))
        each = not isinstance(order, str) and all(c in order for c in range(self.n_classes))
        if not each or len(order) != self.n_classes:
            raise UserError(
                f"dataset.class_order={order}: must be null, random, or a list that names each "
                f"class 0…{self.n_classes - 1} once"
            )
        return [int(c) for c in order]

    def _held_out_rows(self, y: Tensor, fraction: float) -> Tensor:
        """Which examples with labels `y` are held out, bool [N]: `fraction` of each class.

        At least one of each is held out, and one is left.
        """
        labels = y.numpy()
        held = np.zeros(len(labels), dtype=bool)
        for c in range(self.n_classes):
            rows = np.flatnonzero(labels == c)
            n = max(0, min(max(1, round(fraction * len(rows))), len(rows) - 1))
            generator = self.streams.numpy("validation", part=c)
            held[generator.choice(rows, n, replace=False)] = True
        return torch.from_numpy(held)


def _rows_of(split: Split, rows: Tensor) -> Split:
    return Split(split.x[rows], split.y[rows])


class ClassIncremental(Scenario):
    """Each task brings new classes, `n_classes / n_tasks` each (the first ones get the rest).

    Evaluated twice on the same logits: class-IL among all classes seen so far, task-IL among the
    classes of the example's own task (van de Ven & Tolias 2019, "Three scenarios for continual
    learning").
    """

    kind = "class-incremental"
    accuracies = ("class_il", "task_il")

    def classes(self, task: int) -> range:
        smaller, extra = divmod(self.n_classes, self.n_tasks)
        start = task * smaller + min(task, extra)
        return range(start, start + smaller + (task < extra))

    def label(self, task: int) -> str:
        return "classes " + ", ".join(self.class_names[c] for c in self.classes(task))

    def _class_order(self, order: Sequence[int] | str | None) -> list[int]:
        if self.n_tasks > self.n_classes:
            raise UserError(
                f"dataset.n_tasks={self.n_tasks}: there are {self.n_classes} classes, so at most "
                "as many tasks"
            )
        return super()._class_order(order)

    def _take(self, split: Split, task: int) -> Split:
        rows = self._belongs(split.y, task).nonzero().squeeze(1)
        return Split(split.x.index_select(0, rows), split.y.index_select(0, rows))

    def _count(self, split: Split, task: int) -> int:
        if type(self)._take is not ClassIncremental._take:  # a subclass that takes others
            return super()._count(split, task)
        return int(self._belongs(split.y, task).sum())

    def _rows(self, y: Tensor, task: int) -> Tensor | None:
        if type(self)._take is not ClassIncremental._take:
            return None
        return self._belongs(y, task).nonzero().squeeze(1)

    def _belongs(self, y: Tensor, task: int) -> Tensor:
        classes = self.classes(task)
        return (y >= classes.start) & (y < classes.stop)


class DomainIncremental(Scenario):
    """Every task holds all examples of all classes, seen through another pixel map."""

    kind = "domain-incremental"
    accuracies = ("domain_il",)

    def classes(self, task: int) -> range:
        return range(self.n_classes)

    @abstractmethod
    def pixels(self, task: int) -> Tensor:
        """int64 [H·W]: which source pixel each pixel of `task` shows; -1 is black."""

    def _take(self, split: Split, task: int) -> Split:
        source = self.pixels(task).to(split.x.device)
        flat = split.x.flatten(2)
        index = source.clamp(min=0).expand_as(flat)
        mapped = flat.gather(2, index)
        if (source < 0).any():
            mapped.masked_fill_(source < 0, 0)
        return Split(mapped.view_as(split.x), split.y)

    def _count(self, split: Split, task: int) -> int:
        if type(self)._take is not DomainIncremental._take:  # a subclass that takes others
            return super()._count(split, task)
        return len(split)

    def _rows(self, y: Tensor, task: int) -> Tensor | None:
        return torch.arange(len(y)) if type(self)._take is DomainIncremental._take else None


class PermutedPixels(DomainIncremental):
    """A random permutation of the pixels for each task (Goodfellow et al. 2013; Kirkpatrick 2017).

    As in Mammoth the first task is permuted too.
    """

    def label(self, task: int) -> str:
        return f"permutation {task}"

    def pixels(self, task: int) -> Tensor:
        _, height, width = self.shape
        generator = self.streams.numpy("permutation", task=task)
        return torch.from_numpy(generator.permutation(height * width))


class Rotated(DomainIncremental):
    """A rotation for each task by an angle drawn from U(0°, 180°) (Lopez-Paz & Ranzato 2017).

    Counter-clockwise about the image's centre, nearest pixel, black outside: what PIL's `rotate`
    gives, which Mammoth uses.
    """

    def angle(self, task: int) -> float:
        """The rotation of `task` in degrees."""
        return float(self.streams.numpy("rotation", task=task).uniform(0, 180))

    def label(self, task: int) -> str:
        return f"rotation {self.angle(task):.1f}°"

    def pixels(self, task: int) -> Tensor:
        _, height, width = self.shape
        return rotation(self.angle(task), height, width)


def rotation(degrees: float, height: int, width: int) -> Tensor:
    """Source pixel of each pixel of an image turned counter-clockwise; -1 where it falls outside.

    In the 16.16 fixed point that PIL computes in, so that pixels near an edge agree too.

    Returns:
        int64 [height · width], indices into the flat source image.
    """
    cos, sin = (round(f(math.radians(degrees)), 15) for f in (math.cos, math.sin))

    def source(along: float, across: float, x: float, y: float, centre: float) -> Tensor:
        start = along * -x + across * -y + centre
        steps = _fixed(along) * torch.arange(width) + _fixed(across) * torch.arange(height)[:, None]
        return (steps + _fixed(start + along * 0.5 + across * 0.5)) >> 16

    x, y = width / 2, height / 2
    column, row = source(cos, -sin, x, y, x), source(sin, cos, x, y, y)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, row * width + column, -1).flatten()


def _fixed(value: float) -> int:
    return math.floor(value * 65536 + 0.5)
