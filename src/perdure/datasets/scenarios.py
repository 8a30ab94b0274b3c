"""Scenarios (benchmarks): class-incremental splits, permuted pixels, rotations, joint training.

They turn arrays into a sequence of tasks; class order and validation split are made here too.
`blurry` and `general` have those whose tasks mix, and the one that has no tasks.

A scenario is a function of (arrays, dataset settings, seed) alone: class order, permutations,
angles and the validation split come from streams of their own, so they depend neither on the
method nor on how much randomness was used before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from perdure.config.rules import RULES
from perdure.config.task_sizes import check_sizes, sizes_of
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.classes import Classes
from perdure.datasets.corruption import Corruption
from perdure.datasets.rotation import rotation
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
        corruption: label noise and long tail of the training examples; none by default.
    """

    kind: ClassVar[str]
    akin: ClassVar[str | None] = None
    """Another kind whose methods are defined here too."""
    accuracies: ClassVar[tuple[str, ...]]
    """Names of the accuracies that an evaluation computes."""
    boundaries: ClassVar[bool] = True
    """Whether the end of a task is known in training; else there is one task, a stream."""
    shuffles: ClassVar[bool] = True
    """Whether an epoch is drawn in random order; else it comes in the order of `train`."""

    def __init__(
        self,
        arrays: Arrays,
        n_tasks: int,
        seed: int = 0,
        validation: float = 0.0,
        class_order: Sequence[int] | str | None = None,
        device: torch.device | str = "cpu",
        corruption: Corruption | None = None,
    ) -> None:
        RULES["dataset.seed"].check("dataset.seed", seed)
        if n_tasks is None or n_tasks < 1:
            shown = "null" if n_tasks is None else n_tasks
            raise UserError(f"dataset.n_tasks={shown}: must be 1 or more, an integer")
        if not 0 <= validation < 1:
            raise UserError(f"dataset.validation={validation}: must be a fraction in [0, 1)")
        self.n_tasks = n_tasks
        self.n_classes = len(arrays.classes)
        self.streams = Streams(seed)
        self.class_order = self._class_order(class_order)
        self.class_names = tuple(arrays.classes[c] for c in self.class_order)
        self._cache: dict[int, Split] = {}
        self._cached_bytes = 0
        self._seen: list[Classes] = []
        train = self._divided(arrays, validation, device)
        corruption = corruption or Corruption()
        if (kept := corruption.kept(train.y, self.n_classes, self.streams)) is not None:
            train = _rows_of(train, kept)
        y = corruption.noisy(
            self._positions(train.y),
            self._label_groups(),
            self.class_names,
            self.class_order,
            self.streams,
        )
        self._train = Split(train.x.to(device), y.to(device))

    def _divided(self, arrays: Arrays, validation: float, device: torch.device | str) -> Split:
        """The training examples, with the source's labels; the others are kept to be measured."""
        train, held_out = arrays.train, arrays.test
        self.split = "test"
        self._held_out_ids = torch.arange(len(held_out))
        if validation > 0:
            held = self._held_out_rows(arrays.train.y, validation)
            train, held_out = _rows_of(arrays.train, ~held), _rows_of(arrays.train, held)
            self.split = "validation"
            self._held_out_ids = held.nonzero().squeeze(1)
        self._held_out = Split(held_out.x.to(device), self._positions(held_out.y).to(device))
        return train

    def _positions(self, y: Tensor) -> Tensor:
        """Labels, that is positions in the class order, of the source's class numbers."""
        position = torch.empty(self.n_classes, dtype=torch.int64)
        position[torch.tensor(self.class_order)] = torch.arange(self.n_classes)
        return position[y]

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
        split = self._take(self._train, task)
        return split if self.shuffles else replace(split, ordered=True)

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

    def joint(self, n_tasks: int | None = None) -> Split:
        """The training examples of all tasks, or of the first so many, as one.

        Beside it there is never more than a task.
        """
        ends = list(accumulate(self.n_train(task) for task in range(n_tasks or self.n_tasks)))
        x = self._train.x.new_empty((ends[-1], *self.shape))
        y = self._train.y.new_empty(ends[-1])
        for task, end in enumerate(ends):
            part = self.train(task)
            x[end - len(part) : end], y[end - len(part) : end] = part.x, part.y
        return Split(x, y)

    @abstractmethod
    def classes(self, task: int) -> Collection[int]:
        """The labels that occur in `task`: `Classes`, or any other collection of integers."""

    def seen(self, task: int, drawn: int | None = None) -> Classes:
        """The labels that have occurred up to `task`, itself included; none before any (-1).

        Args:
            task: its number.
            drawn: how many of its training examples have been drawn, in a stream without
                boundaries; None for all. A task's classes are known from its beginning.
        """
        while len(self._seen) <= task:
            before = self._seen[-1] if self._seen else Classes()
            self._seen.append(before | Classes.of(self.classes(len(self._seen))))
        return self._seen[task] if task >= 0 else Classes()

    def suits(self, kinds: Collection[str]) -> bool:
        """Whether a method that is defined for `kinds` of scenario is defined here."""
        return self.kind in kinds or self.akin in kinds

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

    def _label_groups(self) -> Sequence[Classes]:
        """Sets of labels within which noise changes a label."""
        return [Classes(range(self.n_classes))]

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
    learning"). Label noise keeps an example in its task: a wrong label is of the same task.

    Args:
        arrays: the data set.
        n_tasks: how many tasks; None where the sizes say so.
        seed, validation, class_order, device, corruption: see `Scenario`.
        class_sizes: how many classes each task has; or
        initial_classes: how many the first one has, the rest being divided equally, or by
        increment: how many each further one has (without `initial_classes`, each one).

    Raises:
        UserError: the tasks cannot be made of so many classes.
    """

    kind = "class-incremental"
    accuracies = ("class_il", "task_il")

    def __init__(
        self,
        arrays: Arrays,
        n_tasks: int | None = None,
        seed: int = 0,
        validation: float = 0.0,
        class_order: Sequence[int] | str | None = None,
        device: torch.device | str = "cpu",
        corruption: Corruption | None = None,
        class_sizes: Sequence[int] | None = None,
        initial_classes: int | None = None,
        increment: int | None = None,
    ) -> None:
        given = SimpleNamespace(
            n_tasks=n_tasks,
            class_sizes=class_sizes,
            initial_classes=initial_classes,
            increment=increment,
        )
        check_sizes(given)
        self.sizes = sizes_of(len(arrays.classes), **vars(given))
        self._starts = [0, *accumulate(self.sizes)]
        super().__init__(arrays, len(self.sizes), seed, validation, class_order, device, corruption)

    def classes(self, task: int) -> Classes:
        return Classes(range(*self._starts[task : task + 2]))

    def label(self, task: int) -> str:
        return "classes " + ", ".join(self.class_names[c] for c in self.classes(task))

    def _label_groups(self) -> Sequence[Classes]:
        return [Classes.of(self.classes(task)) for task in range(self.n_tasks)]

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
        return Classes.of(self.classes(task)).mask(y)


class DomainIncremental(Scenario):
    """Every task holds all examples of all classes, seen through another pixel map."""

    kind = "domain-incremental"
    accuracies = ("domain_il",)

    def classes(self, task: int) -> Classes:
        return Classes(range(self.n_classes))

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
