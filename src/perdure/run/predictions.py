"""Predictions, class scores and confidence of an evaluation, as its batches pass (predictions.npz).

docs/evaluation.md lists the arrays of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError
from perdure.io.atomic import write_stream
from perdure.metrics.calibration import Calibration

NAME = "predictions.npz"


class Predictions:
    """An observer of the evaluator: calibration of each task and, where kept, every score.

    Args:
        benchmark: the tasks.
        tasks: those that are evaluated.
        keep: whether the scores are kept for `write`.

    Raises:
        UserError: they are to be kept, and the scenario does not say which examples a task has.
    """

    def __init__(self, benchmark: Scenario, tasks: Sequence[int], keep: bool) -> None:
        self.benchmark = benchmark
        self.calibration = {task: Calibration(benchmark.device) for task in tasks}
        self._keep = keep
        self._ids: list[Tensor] = []
        self._parts: dict[str, list[Tensor]] = {}
        for task in tasks if keep else ():
            ids = benchmark.evaluation_ids(task)
            if ids is None:
                raise UserError(
                    f"predictions=true: {type(benchmark).__name__} has no _rows(y, task), so "
                    "nobody could find the examples again; leave it false"
                )
            self._ids.append(ids)

    def __call__(self, task: int, scores: Tensor, y: Tensor, among: Classes) -> None:
        """Take in a batch; see `perdure.training.evaluation.Observer`."""
        chosen = among.select(scores)
        self.calibration[task].add(chosen, among.positions(y))
        if not self._keep:
            return
        own = Classes.of(self.benchmark.classes(task))
        batch = {
            "task": torch.full_like(y, task, dtype=torch.int32),
            "label": y.to(torch.int32),
            "predicted": among.labels(chosen.argmax(1)).to(torch.int32),
            "scores": scores.float(),
        }
        if "task_il" in self.benchmark.accuracies:
            within = own.labels(own.select(scores).argmax(1))
            batch["predicted_task_il"] = within.to(torch.int32)
        for name, values in batch.items():
            self._parts.setdefault(name, []).append(values)

    def arrays(self) -> dict[str, Any]:
        """What `write` writes."""
        found = {name: torch.cat(parts).cpu().numpy() for name, parts in self._parts.items()}
        return {
            "id": torch.cat(self._ids).numpy(),
            **found,
            "class_names": np.array(self.benchmark.class_names),
            "class_order": np.array(self.benchmark.class_order, dtype=np.int32),
            "split": np.array("test" if self.benchmark.split == "test" else "train"),
        }

    def write(self, folder: Path) -> None:
        """Write all that was kept to `folder`; no array in it is an object, so none is pickled.

        Raises:
            OSError: the disk's own error.
        """
        arrays: dict[str, Any] = self.arrays()
        write_stream(folder / NAME, lambda file: np.savez(file, **arrays))
