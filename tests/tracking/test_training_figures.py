"""The learning rate over the steps."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import Curve
from perdure.tracking.run_data import RunData
from perdure.tracking.training_figures import learning_rate, rate_rows


def data_of(folder: Path, rates: list[float]) -> RunData:
    rows = [
        {
            "kind": "step",
            "task": 0,
            "epoch": 0,
            "step": i,
            "global_step": i,
            "loss": 1.0,
            "lr": rate,
        }
        for i, rate in enumerate(rates, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunData({}, folder / "metrics.jsonl")


def test_a_schedule_is_drawn_and_its_numbers_are_there(tmp_path: Path) -> None:
    data = data_of(tmp_path, [0.1, 0.05, 1e-05])
    figure = learning_rate(data, PAPER)
    assert figure is not None
    (line,) = [shape for shape in figure.shapes if isinstance(shape, Curve)]
    heights = [point[1] for point in line.points if point is not None]
    assert heights == sorted(heights)  # it falls: down the page
    table = list(csv.reader(io.StringIO(rate_rows(data))))
    assert table == [["global_step", "learning_rate"], ["1", "0.1"], ["2", "0.05"], ["3", "1e-05"]]


def test_a_constant_rate_is_no_figure(tmp_path: Path) -> None:
    assert learning_rate(data_of(tmp_path, [0.1, 0.1]), PAPER) is None
