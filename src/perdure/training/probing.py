"""Probes: evaluations on small stratified probe sets during training, and of incoming batches.

They change nothing: a probe is a forward pass in evaluation mode, and what training draws is drawn
from the position, so neither weights nor random numbers know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from perdure.config.schema import EvaluationConfig
from perdure.datasets.arrays import Split
from perdure.tracking import events
from perdure.training.evaluation import Evaluator
from perdure.training.hooks import Hooks
from perdure.training.settings import Settings
from perdure.training.state import TrainState


class Probing:
    """Evaluates on probe sets every n steps, after the first batches of a task, and at its end.

    The first batches are those of the task's first epoch. After each of them the current task is
    probed; after the 1st, 2nd, 4th, 8th and every n-th step, and at a task's end, all tasks seen.
    Before every n-th step of a first epoch the incoming batch is predicted (test, then train).
    A method that derives what it predicts with (class means) is not probed after the first batches,
    where deriving it would cost more than the steps; one that can be measured at task ends alone is
    not probed at all, and neither is joint training.

    Args:
        evaluator: counts correct answers.
        hooks: let the method derive what it predicts with.
        state: the run.
        settings: how to train.
        options: when to probe; None never does.
        emit: passes an event to the recorders.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        hooks: Hooks,
        state: TrainState,
        settings: Settings,
        options: EvaluationConfig | None,
        emit: Callable[[events.Event], None],
    ) -> None:
        can = state.method.evaluable == "anytime" and not settings.joint
        options = options if can else None
        derives = state.method.defines("before_evaluation")
        self._every = 0 if options is None else options.probe_every or 0
        self._first = 0 if options is None or derives else options.first_batches
        self._size = 0 if options is None else options.probe_size
        self._evaluator = evaluator
        self._hooks = hooks
        self._state = state
        self._emit = emit
        self._sets: dict[int, Split] = {}

    def before_step(self, raw: Tensor, y: Tensor, split: Split) -> None:
        """A batch has come and is not trained on yet.

        Args:
            raw: uint8 [B, C, H, W], the global batch.
            y: labels, int64 [B].
            split: training examples of the current task.
        """
        at = self._state.position
        if at.epoch or at.phase:
            return
        if self._first and at.step == 0:
            self._probe([at.task], split, batch=0)
        if self._every and at.global_step % self._every == 0:
            found = self._counted([(at.task, Split(raw, y))], split)
            correct = {name: n for name, (n,) in found.items()}
            self._send("incoming", {"total": len(y), "correct": correct})

    def after_step(self, loss: Tensor | None, split: Split) -> None:
        """A step is made, which the position counts already; `loss` [] is that of its batch."""
        at = self._state.position
        is_first = not (at.epoch or at.phase) and at.step <= self._first
        is_due = self._every and at.global_step % self._every == 0
        if not (is_first or is_due):
            return
        sees_all = is_due or (self._every and at.step & (at.step - 1) == 0)
        tasks = range(at.task + 1) if sees_all else [at.task]
        self._probe(tasks, split, at.step if is_first else None, loss if is_first else None)

    def at_end(self, split: Split) -> None:
        """The current task is at its end, and measured."""
        if self._every:
            self._probe(range(self._state.position.task + 1), split, boundary=True)

    def _probe(
        self,
        tasks: Sequence[int],
        split: Split,
        batch: int | None = None,
        loss: Tensor | None = None,
        boundary: bool = False,
    ) -> None:
        sets = [(task, self._set(task)) for task in tasks]
        self._send(
            "probe",
            {
                "batch": batch,
                "boundary": boundary,
                "loss": None if loss is None else float(loss),
                "tasks": list(tasks),
                "total": [len(probe) for _, probe in sets],
                "correct": self._counted(sets, split),
            },
        )

    def _counted(self, sets: Sequence[tuple[int, Split]], split: Split) -> dict[str, list[int]]:
        """Accuracy's name → how many of each set are answered correctly; waits for the device."""
        seen = self._state.method.task.seen
        with self._state.clock.phase("evaluation"):
            self._hooks.before_evaluation(split)
            return self._evaluator.correct(sets, seen)

    def _send(self, kind: str, row: dict[str, object]) -> None:
        at = self._state.position
        place = {"kind": kind, "task": at.task, "epoch": at.epoch, "global_step": at.global_step}
        self._emit(events.RawRow({**place, **row}))

    def _set(self, task: int) -> Split:
        """The probe set of `task`; it is chosen once."""
        if task not in self._sets:
            whole = self._evaluator.benchmark.evaluation(task)
            rows = torch.from_numpy(stratified(whole.y.cpu().numpy(), self._size))
            rows = rows.to(whole.y.device)
            self._sets[task] = Split(whole.x[rows], whole.y[rows])
        return self._sets[task]


def stratified(labels: np.ndarray, size: int) -> np.ndarray:
    """Rows, int64 in ascending order, of about `size` examples: of each class as many.

    The rows of a class are evenly spaced, so nothing is drawn. Of each class one is taken at least,
    and no more than it has.

    Args:
        labels: of all examples, integers [N].
        size: how many are wanted.
    """
    classes = np.unique(labels)
    quota, more = divmod(size, len(classes))
    chosen = []
    for place, c in enumerate(classes):
        rows = np.flatnonzero(labels == c)
        n = min(len(rows), max(1, quota + (place < more)))
        chosen.append(rows[np.arange(n) * len(rows) // n])
    return np.sort(np.concatenate(chosen))
