"""Blurry tasks (i-Blurry, Si-Blurry): some classes occur in one task, others in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.classes import Classes
from perdure.datasets.corruption import Corruption
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError


class Blurry(Scenario):
    """Disjoint classes occur in one task only, blurry ones mostly in one and a little in all.

    Koh et al. 2022, "Online continual learning on class incremental blurry task configuration with
    anytime inference" (i-Blurry-N-M), sec. 3: N percent of the classes are disjoint, the others
    blurry; both are divided among the tasks. M percent of the examples of the blurry classes are
    put together, shuffled, and dealt equally to all tasks. With `stochastic` the numbers of classes
    are drawn: Moon et al. 2023, "Online class incremental learning on stochastic blurry task
    boundary via mask and visual prompt tuning" (Si-Blurry), sec. 3.

    What the papers leave open or their code does otherwise: the class order is `class_order`
    (`random` is theirs), its first classes being the disjoint ones; no class is dropped where
    numbers do not divide, the first tasks get one more; M percent are taken of each class, at
    random, and one example of it stays; a stochastic task has at least one class, and what is dealt
    is dealt equally. Wrong labels (`Corruption`) are of any class, and tasks are made of them.

    A task is measured on the test examples of the classes that are mostly in it, disjoint and
    blurry, so that each test example is measured once: after the last task the average over
    examples is the accuracy on the whole test set. There is no task-IL.

    Args:
        arrays, n_tasks, seed, validation, class_order, device, corruption: see `Scenario`.
        disjoint_ratio: N / 100.
        blurry_ratio: M / 100.
        stochastic: whether the numbers of classes of the tasks are drawn.

    Raises:
        UserError: a ratio is out of range, or there are fewer classes than tasks.
    """

    kind = "blurry"
    akin = "class-incremental"
    accuracies = ("class_il",)

    def __init__(
        self,
        arrays: Arrays,
        n_tasks: int,
        seed: int = 0,
        validation: float = 0.0,
        class_order: Sequence[int] | str | None = None,
        device: torch.device | str = "cpu",
        corruption: Corruption | None = None,
        disjoint_ratio: float = 0.5,
        blurry_ratio: float = 0.1,
        stochastic: bool = False,
    ) -> None:
        for key, ratio in (("disjoint_ratio", disjoint_ratio), ("blurry_ratio", blurry_ratio)):
            if not 0 <= ratio <= 1:
                raise UserError(f"dataset.scenario.{key}={ratio}: must be a fraction in [0, 1]")
        self.disjoint_ratio, self.blurry_ratio = disjoint_ratio, blurry_ratio
        self.stochastic = stochastic
        super().__init__(arrays, n_tasks, seed, validation, class_order, device, corruption)
        if n_tasks > self.n_classes:
            raise UserError(
                f"dataset.n_tasks={n_tasks}: there are {self.n_classes} classes, so at most as "
                "many tasks"
            )
        self.main_classes = self._main_classes()
        """By task, the disjoint classes, and the blurry ones that are mostly in it."""

    @property
    def n_disjoint(self) -> int:
        """How many classes are disjoint: labels 0 up to it; the others are blurry."""
        return round(self.disjoint_ratio * self.n_classes)

    def _main_classes(self) -> tuple[Classes, ...]:
        parts = (range(self.n_disjoint), range(self.n_disjoint, self.n_classes))
        if self.stochastic:
            return self._drawn(parts)
        # Blurry classes are dealt from the last task on, so that equal numbers come out equal.
        sizes = [_equally(len(part), self.n_tasks) for part in parts]
        sizes[1] = sizes[1][::-1]
        return _cut(parts, [[0, *accumulate(each)] for each in sizes])

    def classes(self, task: int) -> Classes:
        return self._occurring[task] | self.main_classes[task]

    def label(self, task: int) -> str:
        main = self.main_classes[task]
        names = ", ".join(self.class_names[c] for c in main)
        more = len(self.classes(task)) - len(main)
        return f"classes {names}" + (f", and some of {more} others" if more else "")

    @cached_property
    def _task_of(self) -> Tensor:
        """The task of each training example, int64 [N] on the device."""
        labels = self._train.y.cpu().numpy()
        main = np.empty(self.n_classes, dtype=np.int64)
        for task, classes in enumerate(self.main_classes):
            main[list(classes)] = task
        tasks = main[labels]
        moved = [self._moved(np.flatnonzero(labels == c), c) for c in self._blurry]
        pool = np.concatenate([np.empty(0, dtype=np.int64), *moved])
        pool = self.streams.numpy("blurry pool").permutation(pool)
        tasks[pool] = np.repeat(np.arange(self.n_tasks), _equally(len(pool), self.n_tasks))
        return torch.from_numpy(tasks).to(self.device)

    @cached_property
    def _occurring(self) -> tuple[Classes, ...]:
        tasks, labels = self._task_of.cpu(), self._train.y.cpu()
        return tuple(Classes(labels[tasks == t].unique().tolist()) for t in range(self.n_tasks))

    @property
    def _blurry(self) -> range:
        return range(self.n_disjoint, self.n_classes)

    def _moved(self, rows: np.ndarray, label: int) -> np.ndarray:
        """Which of a blurry class's examples `rows` are dealt to all tasks."""
        n = max(0, min(int(self.blurry_ratio * len(rows)), len(rows) - 1))
        generator = self.streams.numpy("blurry", part=self.class_order[label])
        return generator.choice(rows, n, replace=False)

    def _drawn(self, parts: Sequence[range]) -> tuple[Classes, ...]:
        """Classes of the tasks by cuts at random places; anew until every task has a class."""
        for attempt in range(10_000):
            generator = self.streams.numpy("blurry cuts", step=attempt)
            cuts = [
                [0, *sorted(generator.integers(0, len(p) + 1, self.n_tasks - 1)), len(p)]
                for p in parts
            ]
            found = _cut(parts, cuts)
            if all(found):
                return found
        raise UserError(
            f"dataset.scenario.stochastic=true: {self.n_classes} classes are too few to be drawn "
            f"into {self.n_tasks} tasks; choose fewer tasks, or stochastic=false"
        )

    def _take(self, split: Split, task: int) -> Split:
        if split is self._train:
            rows = (self._task_of == task).nonzero().squeeze(1)
        else:
            rows = self.main_classes[task].mask(split.y).nonzero().squeeze(1)
        return Split(split.x.index_select(0, rows), split.y.index_select(0, rows))

    def _count(self, split: Split, task: int) -> int:
        if type(self)._take is not Blurry._take:  # a subclass that takes others
            return super()._count(split, task)
        if split is self._train:
            return int((self._task_of == task).sum())
        return int(self.main_classes[task].mask(split.y).sum())

    def _rows(self, y: Tensor, task: int) -> Tensor | None:
        if type(self)._take is not Blurry._take:
            return None
        return self.main_classes[task].mask(y).nonzero().squeeze(1)


def _equally(n: int, parts: int) -> list[int]:
    return [n // parts + (part < n % parts) for part in range(parts)]


def _cut(parts: Sequence[range], cuts: Sequence[Sequence[int]]) -> tuple[Classes, ...]:
    """Task by task, what lies between two cuts of each part."""
    n_tasks = len(cuts[0]) - 1
    return tuple(
        Classes(
            label
            for part, places in zip(parts, cuts, strict=True)
            for label in part[places[task] : places[task + 1]]
        )
        for task in range(n_tasks)
    )
