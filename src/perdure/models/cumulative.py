"""Cumulative training: at each task on the data of all tasks so far, an upper bound."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.models.base import Task
from perdure.models.phase import Phase
from perdure.models.sgd import FineTuning


class Cumulative(FineTuning):
    """Go on from the weights of the task before, on the examples of every task so far.

    What continual learning would reach if it could keep all data: a bound, no method (as in
    Lopez-Paz & Ranzato 2017 and in Avalanche's `Cumulative`). `training.loss_scope=seen` by itself.
    """

    joint = False
    keeps_all_data = True
    loss_scope = "seen"
    needs_boundaries = True

    def phases(self, task: Task) -> Sequence[Phase]:
        return (Phase(data="all-seen"),)
