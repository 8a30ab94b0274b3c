"""The system's clock may run backward, within a process and between two of them."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from kit import assert_same

import perdure
from perdure.checkpoint.core.format import read
from perdure.config.compose import compose, register
from perdure.errors import PreemptedError
from perdure.run.assemble import run
from perdure.run.preemption import StopFlag

pytestmark = pytest.mark.process

RUN = (
    "model=er", "dataset.iterations=30", "dataset.stop_after=2", "buffer.size=40",
    "checkpoint.save=true", "checkpoint.every=5 steps", "tracking.console=off",
    "training.log_every=10", "timestamp=20260101-000000",
)  # fmt: skip
DAY = 86_400


class AfterSteps(StopFlag):
    """Asks to stop at the 43rd step boundary."""

    count = 0

    def __call__(self) -> str | None:
        self.count += 1
        return "a test" if self.count == 43 else None


def end_of(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The state after the last task, and the rows of metrics.jsonl without their clocks."""
    (path,) = (folder / "checkpoints").glob("*_1.pt")
    state = {key: read(path)[key] for key in ("model", "optimizer", "buffer", "position")}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state, [{k: v for k, v in row.items() if k != "clock"} for row in rows]


def test_a_clock_that_runs_backward_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls while the run trains; at the resume every file is from tomorrow, oldest last."""
    perdure.train(*RUN, folder=tmp_path / "calm")
    began, ticks = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: began - 60 * next(ticks))
    register()
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(PreemptedError):
        run(compose(*RUN), folder, list(RUN), stop=AfterSteps())
    oldest_first = sorted(folder.rglob("*"), key=lambda path: path.lstat().st_mtime_ns)
    for age, path in enumerate(oldest_first):
        os.utime(path, (began + DAY - age, began + DAY - age), follow_symlinks=False)
    results = perdure.train(*RUN, "checkpoint.resume=auto", folder=folder)
    assert results["resumes"][0]["from"].endswith("step-43_full.pth")
    assert next(ticks) > 1
    assert_same(end_of(folder), end_of(tmp_path / "calm"))
