"""An excerpt of a benchmark: a few examples of its first tasks, regrouped or altered."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from perdure.datasets.arrays import Split
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario


class Excerpt(Scenario):
    """Tasks made of a few examples of another benchmark's.

    Args:
        whole: the benchmark.
        groups: which of its tasks each task here is made of.
        n_train: training examples of each of its tasks, spread over the classes.
        n_test: likewise of those that measure accuracy.
        other_test: whether what measures accuracy is altered: inverted images, wrong labels.
        other_tail: whether the second half of each task's training examples is, likewise.
    """

    def __init__(
        self,
        whole: Scenario,
        groups: Sequence[Sequence[int]],
        n_train: int,
        n_test: int,
        other_test: bool = False,
        other_tail: bool = False,
    ) -> None:
        # Not the constructor of `Scenario`, which would divide a data set anew.
        self.n_tasks = len(groups)
        self.n_classes = whole.n_classes
        self.class_names, self.class_order = whole.class_names, whole.class_order
        self.split = whole.split
        self.streams = whole.streams
        self.groups = groups
        self._whole = whole
        self._sizes = (n_train, n_test)
        self._seen = []
        tasks = [task for group in groups for task in group]
        self._few = {task: _spread(whole.train(task), n_train) for task in tasks}
        tests = {task: _spread(whole.evaluation(task), n_test) for task in tasks}
        if other_tail:
            self._few = {task: self._with_other_tail(s, task) for task, s in self._few.items()}
        if other_test:
            tests = {task: self._altered(split, task) for task, split in tests.items()}
        self._tests = tests

    # Of the other benchmark's class, which an excerpt is in every other respect.
    @property
    def kind(self) -> str:  # type: ignore[override]
        """The kind of scenario."""
        return self._whole.kind

    @property
    def akin(self) -> str | None:  # type: ignore[override]
        """Another kind whose methods are defined here too."""
        return self._whole.akin

    @property
    def accuracies(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the accuracies that an evaluation computes."""
        return self._whole.accuracies

    @property
    def boundaries(self) -> bool:  # type: ignore[override]
        """Whether the end of a task is known in training."""
        return self._whole.boundaries

    @property
    def shuffles(self) -> bool:  # type: ignore[override]
        """Whether an epoch is drawn in random order."""
        return self._whole.shuffles

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._whole.shape

    @property
    def device(self) -> torch.device:
        return self._whole.device

    def train(self, task: int) -> Split:
        return _joined([self._few[each] for each in self.groups[task]])

    def evaluation(self, task: int) -> Split:
        return _joined([self._tests[each] for each in self.groups[task]])

    def evaluation_ids(self, task: int) -> Tensor | None:
        return None

    def n_train(self, task: int) -> int:
        return len(self.train(task))

    def n_evaluation(self, task: int) -> int:
        return len(self.evaluation(task))

    def joint(self, n_tasks: int | None = None) -> Split:
        return _joined([self.train(task) for task in range(n_tasks or self.n_tasks)])

    def classes(self, task: int) -> Collection[int]:
        found = Classes()
        for each in self.groups[task]:
            found |= Classes.of(self._whole.classes(each))
        return found

    def seen(self, task: int, drawn: int | None = None) -> Classes:
        if self.boundaries or task < 0:
            return super().seen(task, drawn)
        labels = self.train(task).y if drawn is None else self.train(task).y[:drawn]
        return Classes(labels.tolist())

    def label(self, task: int) -> str:
        return " and ".join(self._whole.label(each) for each in self.groups[task])

    def _take(self, split: Split, task: int) -> Split:
        return self.train(task)

    def _altered(self, split: Split, task: int) -> Split:
        """Other images, and labels that are wrong but of the task."""
        classes = Classes.of(self._whole.classes(task))
        wrong = (classes.positions(split.y) + 1) % len(classes)
        return Split(255 - split.x, classes.labels(wrong))

    def _with_other_tail(self, split: Split, task: int) -> Split:
        half, other = len(split) // 2, self._altered(split, task)
        x = torch.cat([split.x[:half], other.x[half:]])
        return Split(x, torch.cat([split.y[:half], other.y[half:]]), ordered=split.ordered)


def _spread(split: Split, n: int) -> Split:
    """`n` examples of each class in turn, in the order of `split`; of a stream every so many-th."""
    if split.ordered:
        rows = torch.linspace(0, len(split) - 1, min(n, len(split))).round().long()
        return Split(split.x[rows], split.y[rows], ordered=True)
    labels = split.y.cpu()
    turn = torch.zeros(len(labels))
    for label in labels.unique():
        (mine,) = (labels == label).nonzero(as_tuple=True)
        turn[mine] = torch.arange(len(mine), dtype=torch.float32)
    rows = turn.argsort(stable=True)[:n].sort().values.to(split.y.device)
    return Split(split.x[rows], split.y[rows])


def _joined(parts: Sequence[Split]) -> Split:
    if len(parts) == 1:
        return parts[0]
    return Split(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))
