"""Metrics of the catalog for many runs, computed from what each has recorded (stability gap, …)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from perdure.analysis.run_view import measured
from perdure.analysis.runs import Run
from perdure.errors import UserError
from perdure.metrics.catalog import CATALOG, compute
from perdure.metrics.measured import Undefined


def families(metrics: Iterable[str]) -> list[str]:
    """Which of the catalog the metrics, called like `stability_gap.class_il`, are of."""
    named = (metric.partition(".")[0] for metric in metrics)
    return list(dict.fromkeys(name for name in named if name in CATALOG))


def with_recorded(runs: Iterable[Run], names: Sequence[str]) -> list[Run]:
    """The runs with these metrics of the catalog, where they are defined.

    The files of a run are read for it, a few milliseconds each; a run without readable ones, as of
    a project of W&B, stays as it is.

    Args:
        runs: those that have not finished stay as they are.
        names: of the catalog.
    """
    return [_extended(run, names) if run.is_finished and names else run for run in runs]


def _extended(run: Run, names: Sequence[str]) -> Run:
    try:
        views = measured(run.folder)
    except UserError:
        return run
    found = {
        f"{name}.{accuracy}": value
        for accuracy, view in views.items()
        for name in names
        if not isinstance(value := compute(name, view), Undefined)
    }
    return replace(run, recorded={**run.recorded, **found})
