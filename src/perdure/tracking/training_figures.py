"""Figures of a run's training: the loss and the learning rate over the optimizer steps."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from perdure.tracking.charts import SCREEN, Frame, Line, line_chart, nice_axis, thinned, with_y_name
from perdure.tracking.colors import Theme
from perdure.tracking.drawing import Drawing
from perdure.tracking.run_data import RunData
from perdure.tracking.tables import csv_text

_STEP_ROW = re.compile(
    rb'\{"kind": "step", .*?"global_step": (\d+), '
    rb'"loss": (null|-?[\d.]+(?:e[+-]\d+)?)(?:, "lr": (-?[\d.]+(?:e[+-]?\d+)?))?[,}]'
)
"""A row of training as `LocalFiles` writes it; parsing a million whole rows would take a minute."""


def training_rows(metrics: Path) -> Iterator[tuple[int, float | None, float]]:
    """Global step, loss (NaN for none; None at the end of a task) and learning rate of each row."""
    if not metrics.exists():
        return
    with metrics.open("rb") as file:
        for line in file:
            if found := _STEP_ROW.match(line):
                loss = math.nan if found[2] == b"null" else float(found[2])
                yield int(found[1]), loss, float(found[3]) if found[3] else math.nan
            elif line.startswith(b'{"kind": "evaluation"'):
                row = json.loads(line)
                if row["boundary"]:
                    yield row["global_step"], None, math.nan


def _series(metrics: Path) -> tuple[array[float], array[float], array[float], array[float]]:
    """Steps with their losses and learning rates, and the steps at which tasks end."""
    # Numbers alone: the rows of a million steps would take a gigabyte.
    steps, losses, rates, ends = array("d"), array("d"), array("d"), array("d")
    for step, loss, rate in training_rows(metrics):
        if loss is None:
            ends.append(step)
        else:
            steps.append(step)
            losses.append(loss)
            rates.append(rate)
    return steps, losses, rates, ends


def loss_curve(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """The mean training loss over the optimizer steps; dashed verticals where a task begins."""
    steps, losses, _, ends = _series(data.metrics)
    return _over_steps("mean training loss", "mean loss", steps, losses, ends, theme, frame)


def learning_rate(data: RunData, theme: Theme, frame: Frame = SCREEN) -> Drawing | None:
    """The learning rate over the optimizer steps; None where it never changes."""
    steps, _, rates, ends = _series(data.metrics)
    if len(set(rates)) < 2:
        return None
    return _over_steps("learning rate", "learning rate", steps, rates, ends, theme, frame)


def _over_steps(
    title: str,
    name: str,
    steps: Sequence[float],
    values: Sequence[float],
    ends: Sequence[float],
    theme: Theme,
    frame: Frame,
) -> Drawing | None:
    if len(steps) < 2 or all(map(math.isnan, values)):
        return None
    xs, ys = thinned(steps, [None if math.isnan(value) else value for value in values])
    x = nice_axis("optimizer step", 0, xs[-1], 7 if frame.width > 300 else 4)
    y = nice_axis(name, 0, max(y for y in ys if y is not None))
    starts = [step for step in ends if step < steps[-1]]
    line = Line("", xs, ys, theme.accent, hint=name)
    if not frame.printed:
        return line_chart(title, [line], x, y, theme, marks=starts, frame=frame)
    framed = replace(frame, right=2 * frame.text)  # for half of the last tick's label
    chart = line_chart(title, [line], x, y, theme, marks=starts, frame=framed.beside_name)
    return with_y_name(chart, name, theme, frame)


def loss_rows(data: RunData) -> str:
    """What `loss_curve` shows, row by row."""
    rows = training_rows(data.metrics)
    return csv_text(["global_step", "loss"], ([s, loss] for s, loss, _ in rows if loss is not None))


def rate_rows(data: RunData) -> str:
    """What `learning_rate` shows, row by row."""
    rows = training_rows(data.metrics)
    return csv_text(
        ["global_step", "learning_rate"], ([s, rate] for s, loss, rate in rows if loss is not None)
    )
