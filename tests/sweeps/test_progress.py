"""How far a sweep is, and the summary in its folder."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
from runs_of import make_run

from perdure.analysis import summary
from perdure.sweeps.jobs import Outcome
from perdure.sweeps.progress import Progress, SweepFiles


class Clock:
    """Seconds that go by when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_jobs_side_by_side(clock: Clock) -> None:
    progress = Progress(clock)
    progress.total = 10
    for number in range(3):
        progress.started(number)
    clock.now += 60
    assert progress.line == "0 of 10 jobs done, 3 running"  # nothing to judge the time by
    progress.ended(0, Outcome(0, seconds=60))
    progress.started(3)
    clock.now += 30
    progress.ended(1, Outcome(1, "diverged", seconds=90))
    # Two run, for 90 and 30 s, which leaves 0 and 30 s; six wait, of 60 s, three at a time.
    assert progress.seconds_left() == (6 * 60 + 30) / 3
    assert progress.line == "1 of 10 jobs done, 1 failed, 2 running, about 2 min left"


def test_one_job_after_another_and_finished_ones(clock: Clock) -> None:
    progress = Progress(clock)
    progress.total = 4
    progress.ended(0, Outcome(0, finished_before=True))
    assert progress.line == "1 of 4 jobs done"
    progress.started(1)
    clock.now += 4000
    progress.ended(1, Outcome(0, seconds=4000))
    assert progress.line == "2 of 4 jobs done, about 2 h 13 min left"
    for number in (2, 3):
        progress.ended(number, Outcome(75))
    assert progress.seconds_left() is None
    assert progress.line == "2 of 4 jobs done, 2 interrupted"


def test_jobs_in_a_queue(clock: Clock) -> None:
    """A cluster does not say how many run; what has ended in the time since says it."""
    progress = Progress(clock)
    progress.total = 8
    for number in range(8):
        progress.submitted(number)
    clock.now += 10
    for number in range(4):
        progress.ended(number, Outcome(0, seconds=5))
    assert progress.seconds_left() == 4 * 5 / (4 * 5 / 10)
    assert progress.line == "4 of 8 jobs done, about 10 s left"


# --- the files ------------------------------------------------------------------------------------


def means(folder: Path) -> dict[str, float]:
    rows = csv.DictReader((folder / summary.CSV).open())
    return {r["setting"]: float(r["mean"]) for r in rows if r["metric"] == "cost.flops"}


def test_the_files_are_written_when_due(tmp_path: Path, clock: Clock) -> None:
    folders = [tmp_path / str(number) for number in range(3)]
    jobs = dict.fromkeys(folders, "")
    files = SweepFiles(clock)
    files.update(tmp_path, jobs, now=True)
    assert list(tmp_path.iterdir()) == []  # nothing has ended yet
    make_run(folders[0], "er", 0)
    files.changed()
    files.update(tmp_path, jobs)
    assert means(tmp_path) == {"all": 7.0}
    text = (tmp_path / summary.MARKDOWN).read_text()
    assert "1 of 3 runs finished, 2 not started." in text
    assert r"\toprule" in (tmp_path / summary.LATEX).read_text()
    make_run(folders[1], "derpp", 0)
    files.update(tmp_path, jobs, now=True)
    assert len(means(tmp_path)) == 1  # no job has been reported
    files.changed()
    files.update(tmp_path, jobs, now=True)
    assert list(means(tmp_path)) == ["model=er", "model=derpp"]


def test_writing_takes_a_small_part_of_the_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def write(*_: object) -> None:
        written.append(clock.now)
        clock.now += 2

    monkeypatch.setattr("perdure.sweeps.progress._write", write)
    files = SweepFiles(clock)
    for _ in range(200):
        files.changed()
        files.update(tmp_path, {})
        clock.now += 1
    assert written == [100.0 + 42 * k for k in range(5)]


def test_a_failure_is_logged_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "0", "er", 0)
    (tmp_path / summary.CSV).mkdir()
    files = SweepFiles()
    with caplog.at_level(logging.WARNING, "perdure"):
        for _ in range(2):
            files.changed()
            files.update(tmp_path, {tmp_path / "0": ""}, now=True)
    assert [record.message.count("could not be written") for record in caplog.records] == [1]


def test_hostile_folders_do_not_matter(tmp_path: Path) -> None:
    make_run(tmp_path / "0", "er", 0)
    make_run(tmp_path / "1", "er|\x1b[2J**\\input{x}", 0)
    make_run(tmp_path / "2", "er", 1)
    (tmp_path / "2" / "results.json").write_text(json.dumps({"status": ["x"], "forgetting": 3}))
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    (tmp_path / "3" / ".hydra" / "overrides.yaml").write_text("{a: [")
    jobs = {tmp_path / str(number): "" for number in range(4)}
    files = SweepFiles()
    files.changed()
    files.update(tmp_path, jobs, now=True)
    assert "\x1b" not in (tmp_path / summary.MARKDOWN).read_text()
    assert r"\input" not in (tmp_path / summary.LATEX).read_text()
    assert len(means(tmp_path)) == 2


def test_jobs_that_were_killed_or_never_began(tmp_path: Path) -> None:
    """They could not write how they ended; the sweep knows."""
    make_run(tmp_path / "0", "er", 0)
    make_run(tmp_path / "1", "er", 1, results={"status": "running"})
    files = SweepFiles()
    files.changed()
    ended = ("finished", "interrupted", "failed")
    files.update(tmp_path, {tmp_path / str(k): how for k, how in enumerate(ended)}, now=True)
    text = (tmp_path / summary.MARKDOWN).read_text()
    assert "1 of 3 runs finished, 1 failed, 1 interrupted." in text
