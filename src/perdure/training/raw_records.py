"""Raw records of an evaluation: predictions and confidence of each example, counts by class.

Filled on the device as the batches pass, without waiting for it. What is recorded is int64
throughout, and zero where another rank evaluates: one sum over the ranks, exact in any order,
joins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.datasets.classes import Classes
from perdure.training.evaluation import Counts, Evaluator

_CLASSES, _EXAMPLES = "classes", "examples"
_BYTES = 14
"""Of an example on the disk, at most: its index and task, label, two choices, two halves."""


class RawRecords:
    """Takes in one evaluation; see `perdure.training.evaluation.RawRecord`.

    Args:
        evaluator: makes the evaluation.
        tasks: those that it evaluates.
        limit: bytes that the examples may take; of more, every k-th is kept. None keeps none.

    Attributes:
        every: this k.
    """

    def __init__(self, evaluator: Evaluator, tasks: Sequence[int], limit: int | None) -> None:
        self._benchmark, self._names = evaluator.benchmark, evaluator.accuracies
        self._tasks = tasks
        sizes = [evaluator.n_examples(task) for task in tasks] if limit is not None else []
        self._starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.every = max(1, -(-sum(sizes) * _BYTES // limit)) if limit else 0
        n = -(-sum(sizes) // self.every) if self.every else 0
        options: Any = {"dtype": torch.int64, "device": self._benchmark.device}
        self._classes = torch.zeros(2 + len(self._names), self._benchmark.n_classes, **options)
        self._examples = torch.zeros(2 + len(self._names), n, **options)
        self._y = torch.zeros(0, **options)
        self._kept = self._places = slice(0)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """`classes` [2 + A, C] and `examples` [2 + A, N], of A accuracies."""
        return {_CLASSES: self._classes, _EXAMPLES: self._examples}

    def add(self, place: int, start: int, y: Tensor, chosen: Tensor, among: Classes) -> None:
        """Count the labels, and keep confidence and Brier score of every k-th example."""
        self._y = y
        self._classes[0].scatter_add_(0, y, torch.ones_like(y))
        if not self.every:
            return
        first = self._starts[place] + start
        self._kept = slice(-first % self.every, None, self.every)
        kept = y[self._kept]
        at = -(-first // self.every)
        self._places = slice(at, at + len(kept))
        probabilities = chosen[self._kept].float().softmax(1)
        is_choice = among.mask(kept)
        column = among.positions(torch.where(is_choice, kept, among.start))
        of_label = probabilities.gather(1, column[:, None]).squeeze(1) * is_choice
        confidence = probabilities.max(1).values
        brier = probabilities.square().sum(1) - 2 * of_label + 1
        for row, values in ((-2, confidence), (-1, brier)):
            bits = values.half().view(torch.int16).to(torch.int64)
            self._examples[row, self._places] = bits

    def choose(self, name: str, choice: Tensor) -> None:
        """Count what is chosen, and keep it of every k-th example."""
        place = self._names.index(name)
        if place == 0:
            self._classes[1].scatter_add_(0, choice, torch.ones_like(choice))
        right = (choice == self._y).to(torch.int64)
        self._classes[2 + place].scatter_add_(0, self._y, right)
        if self.every:
            self._examples[place, self._places] = choice[self._kept]

    def by_class(self, counts: Counts) -> dict[str, Any]:
        """Plain counts by label: how many examples, how often chosen, how many correct.

        Args:
            counts: the result of the evaluation, on the host.
        """
        total, predicted, *correct = counts.raw[_CLASSES].tolist()
        named = dict(zip(self._names, correct, strict=True))
        return {"total": total, "predicted": predicted, "correct": named}

    def arrays(self, counts: Counts) -> dict[str, Any]:
        """The examples kept, as docs/metrics.md lists them.

        Args:
            counts: the result of the evaluation, on the host.
        """
        rows = counts.raw[_EXAMPLES].numpy()
        small = np.min_scalar_type(max(1, self._benchmark.n_classes - 1))
        tasks, labels, ids = [], [], []
        for task in self._tasks:
            y = self._benchmark.evaluation(task).y.cpu().numpy()
            tasks.append(np.full(len(y), task, dtype=np.uint16))
            labels.append(y.astype(small))
            of_task = self._benchmark.evaluation_ids(task)
            ids.append(None if of_task is None else of_task.numpy().astype(np.int32))
        found: dict[str, Any] = {
            "task": np.concatenate(tasks)[:: self.every],
            "label": np.concatenate(labels)[:: self.every],
        }
        known = [each for each in ids if each is not None]
        if len(known) == len(ids):
            found["id"] = np.concatenate(known)[:: self.every]
        for place, name in enumerate(self._names):
            found[f"predicted_{name}"] = rows[place].astype(small)
        for row, name in ((-2, "confidence"), (-1, "brier")):
            found[name] = rows[row].astype(np.int16).view(np.float16)
        return {**found, "every": np.array(self.every, dtype=np.int32)}
