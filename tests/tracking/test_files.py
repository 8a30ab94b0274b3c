from __future__ import annotations

import csv
import json
import logging
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import UserError
from perdure.tracking import figures, files
from perdure.tracking.events import Event, RunEnd, StepLog, TaskEnd
from perdure.tracking.files import LocalFiles, to_json
from perdure.tracking.history import plain

FILES = {
    "config.json",
    "results.json",
    "metrics.jsonl",
    "accuracy.csv",
    "figures",
    "report.html",
}


def strict(text: str) -> Any:
    """JSON as its standard has it: NaN and Infinity are errors."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def rows(folder: Path, clock: bool = True) -> list[dict[str, Any]]:
    parsed = [strict(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if clock or k != "clock"} for row in parsed]


def deliver(recorder: LocalFiles, *events: Event) -> None:
    for event in events:
        recorder.receive(event)


def test_a_run_leaves_its_files_and_no_temporary_ones(run: Any) -> None:
    run.play(LocalFiles(run.folder))
    assert {path.name for path in run.folder.iterdir()} == FILES


def test_results_json_is_what_the_events_carried(run: Any) -> None:
    recorder = LocalFiles(run.folder)
    deliver(recorder, run.start())
    assert strict((run.folder / "results.json").read_text())["status"] == "running"
    deliver(recorder, *run.task(0))
    assert strict((run.folder / "results.json").read_text()) == run.results(1)
    deliver(recorder, run.end(1, "interrupted"))
    assert strict((run.folder / "results.json").read_text()) == run.results(1, "interrupted")


def test_results_json_of_a_resumed_run_says_running(run: Any) -> None:
    resumed = run.start(1)
    resumed.results["status"] = "interrupted"
    deliver(LocalFiles(run.folder), resumed)
    assert strict((run.folder / "results.json").read_text())["status"] == "running"


def test_metrics_rows_tell_the_run_in_order(run: Any) -> None:
    run.play(LocalFiles(run.folder))
    kinds = [row["kind"] for row in rows(run.folder)]
    assert kinds == (["step"] * 5 + ["evaluation", "task"]) * 3 + ["end"]
    step, evaluation = rows(run.folder)[4], rows(run.folder)[5]
    assert (step["global_step"], step["loss"], step["lr"]) == (100, 0.01, 0.1)
    assert evaluation["accuracy"] == {"class_il": [0.99], "task_il": [0.99]}
    assert evaluation["boundary"] is True
    assert step["clock"]["steps_per_second"] == 1500.0
    assert evaluation["clock"]["seconds"] == 0.1
    assert rows(run.folder)[-1]["clock"]["seconds"] == run.results(3)["seconds"]
    assert rows(run.folder)[-1]["average_accuracy"] == run.results(3)["average_accuracy"]


def test_only_the_clock_differs_between_a_slow_and_a_fast_run(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    fast, slow = make_run(tmp_path / "fast"), make_run(tmp_path / "slow", clock=7.0)
    for each in (fast, slow):
        each.play(LocalFiles(each.folder))
    assert rows(fast.folder, clock=False) == rows(slow.folder, clock=False)
    assert rows(fast.folder) != rows(slow.folder)
    table = "accuracy.csv"
    assert (fast.folder / table).read_bytes() == (slow.folder / table).read_bytes()


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf], ids=str)
def test_a_loss_that_is_no_number_is_null(run: Any, loss: float) -> None:
    recorder = LocalFiles(run.folder)
    deliver(recorder, run.start(), StepLog(0, 0, 1, 1, loss, 0.1, 5.0))
    assert rows(run.folder)[0]["loss"] is None


def test_rows_are_in_the_file_at_once(run: Any) -> None:
    recorder = LocalFiles(run.folder)
    deliver(recorder, run.start(), StepLog(0, 0, 1, 1, 0.5, 0.1, 5.0))
    assert len(rows(run.folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "header", "names"),
    [
        ({}, ["after_task", "task", "class_il", "task_il"], ["0", "1", "1", "2", "2", "2"]),
        ({"scenarios": ("domain_il",), "n_tasks": 2}, ["after_task", "task", "domain_il"],
         ["0", "1", "1"]),
        ({"joint": True}, ["after_task", "task", "class_il", "task_il"], ["joint"] * 3),
    ],
    ids=["class-incremental", "domain-incremental", "joint"],
)  # fmt: skip
def test_accuracy_csv_is_the_matrix_in_long_form(
    make_run: Callable[..., Any], arguments: dict[str, Any], header: list[str], names: list[str]
) -> None:
    run = make_run(**arguments)
    run.play(LocalFiles(run.folder))
    with (run.folder / "accuracy.csv").open(newline="") as file:
        first, *table = csv.reader(file)
    assert first == header
    assert [row[0] for row in table] == names
    matrices = run.results(1 if run.joint else run.n_tasks)["accuracy_matrix"]
    for column, scenario in enumerate(header[2:], start=2):
        flat = [accuracy for row in matrices[scenario] for accuracy in row]
        assert [float(row[column]) for row in table] == flat


def test_a_resumed_run_cuts_the_rows_that_it_will_write_again(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    run, undisturbed = make_run(), make_run(tmp_path / "undisturbed")
    undisturbed.play(LocalFiles(undisturbed.folder))
    killed = LocalFiles(run.folder)
    deliver(killed, run.start(), *run.task(0))
    state = killed.state_dict()
    kept = (run.folder / "metrics.jsonl").read_bytes()
    deliver(killed, *list(run.task(1))[:7])
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "st')
    resumed = LocalFiles(run.folder)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    deliver(resumed, run.start(1))
    assert (run.folder / "metrics.jsonl").read_bytes() == kept
    deliver(resumed, *run.task(1), *run.task(2), run.end())
    assert rows(run.folder, clock=False) == rows(undisturbed.folder, clock=False)
    resumed_csv, undisturbed_csv = (
        folder / "accuracy.csv" for folder in (run.folder, undisturbed.folder)
    )
    assert resumed_csv.read_bytes() == undisturbed_csv.read_bytes()


def test_the_end_row_of_an_interrupted_run_is_gone_after_a_resume(run: Any) -> None:
    first = LocalFiles(run.folder)
    deliver(first, run.start(), *run.task(0))
    state = first.state_dict()
    deliver(first, run.end(1, "interrupted"))
    assert first.state_dict()["metrics_bytes"] > state["metrics_bytes"]
    resumed = LocalFiles(run.folder)
    resumed.load_state_dict(state)
    deliver(resumed, run.start(1), *run.task(1), *run.task(2), run.end())
    assert [row["kind"] for row in rows(run.folder)].count("end") == 1


@pytest.mark.parametrize("left", [None, b"", b'{"kind": "step"}\n{"kin'], ids=["none", "0", "torn"])
def test_rows_that_are_lost_are_reported_and_training_continues(
    run: Any, caplog: pytest.LogCaptureFixture, left: bytes | None
) -> None:
    run.folder.mkdir()
    if left is not None:
        (run.folder / "metrics.jsonl").write_bytes(left)
    recorder = LocalFiles(run.folder)
    recorder.load_state_dict({"metrics_bytes": 5000})
    with caplog.at_level(logging.WARNING, "perdure"):
        deliver(recorder, run.start(1), *run.task(1))
    assert "metrics.jsonl" in caplog.text
    assert [row["kind"] for row in rows(run.folder)][-7:] == ["step"] * 5 + ["evaluation", "task"]
    size = (run.folder / "metrics.jsonl").stat().st_size
    assert recorder.state_dict()["metrics_bytes"] == size


def test_a_run_that_starts_over_in_its_folder_starts_with_no_rows(run: Any) -> None:
    deliver(LocalFiles(run.folder), run.start(), *run.task(0))
    deliver(LocalFiles(run.folder), run.start())
    assert rows(run.folder) == []
    assert (run.folder / "accuracy.csv").read_text() == "after_task,task,class_il,task_il\n"


def test_a_failure_before_the_start_writes_nothing(run: Any) -> None:
    deliver(LocalFiles(run.folder), RunEnd(run.results(0, "failed"), "no data"))
    assert not run.folder.exists()


@pytest.mark.parametrize(("every", "times"), [(3600.0, 1), (0.0, 3)], ids=["short-run", "long-run"])
def test_the_figures_are_drawn_when_it_is_worth_it(
    run: Any, monkeypatch: pytest.MonkeyPatch, every: float, times: int
) -> None:
    drawn: list[tuple[int, bool]] = []

    def draw(folder: Path, results: dict[str, Any], complete: bool) -> None:
        drawn.append((results["tasks_done"], complete))

    monkeypatch.setattr(figures, "write_figures", draw)
    run.play(LocalFiles(run.folder, plot_every_seconds=every))
    assert drawn == [(1, False), (2, False), (3, True)][-times:]


def test_a_figure_that_fails_does_not_end_the_run(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path, results: dict[str, Any], complete: bool) -> None:
        raise ImportError("no Pillow here")

    monkeypatch.setattr(figures, "write_figures", fail)
    run.play(LocalFiles(run.folder))
    assert "the figures could not be drawn" in caplog.text
    assert (run.folder / "report.html").exists()


def test_a_run_without_a_finished_task_ends_well(run: Any) -> None:
    recorder = LocalFiles(run.folder)
    deliver(recorder, run.start(), run.end(0, "failed", error="the loss is not a number"))
    assert {path.name for path in run.folder.iterdir()} == FILES - {"figures"}
    assert rows(run.folder)[-1]["error"] == "the loss is not a number"


def test_numbers_keep_every_bit() -> None:
    value = {"x": [0.1 + 0.2, 1e-300, 1 / 3], "n": None, "flag": True, "path": Path("a")}
    assert json.loads(to_json(value)) == {**value, "path": "a"}


def test_scalars_of_numpy_and_torch_become_numbers() -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    value = {"a": numpy.float32(0.5), "b": torch.tensor(2), "c": numpy.float64("nan"), 3: (1,)}
    assert plain(value) == {"a": 0.5, "b": 2, "c": None, "3": [1]}


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import FakeRun
from perdure.tracking.files import LocalFiles
run = FakeRun(Path(sys.argv[1]), n_tasks=30)
recorder = LocalFiles(run.folder, plot_every_seconds=3600)
recorder.receive(run.start())
print("started", flush=True)
while True:
    for task in range(30):
        for event in run.task(task):
            recorder.receive(event)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.027, 0.041], ids=str)
@pytest.mark.process
def test_a_killed_run_keeps_what_it_had(tmp_path: Path, delay: float) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    results = strict((tmp_path / "results.json").read_text())
    done = results["tasks_done"]
    assert [len(row) for row in results["accuracy_matrix"]["class_il"]] == list(range(1, done + 1))
    with (tmp_path / "accuracy.csv").open(newline="") as file:
        assert all(len(row) == 4 for row in csv.reader(file))
    whole = (tmp_path / "metrics.jsonl").read_text().rpartition("\n")[0]
    assert all(strict(line)["kind"] for line in whole.splitlines())


def test_task_end_costs_no_more_than_a_few_writes(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def note(path: Path, data: bytes) -> None:
        written.append(path.name)

    recorder = LocalFiles(run.folder)
    deliver(recorder, run.start())
    monkeypatch.setattr(files, "write_atomically", note)
    deliver(recorder, TaskEnd(0, 100, 0.8, run.results(1)))
    assert written == ["results.json", "accuracy.csv"]


def test_a_history_that_is_a_link_is_not_written_to(run: Any, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(UserError, match="is a link"):
        LocalFiles(run.folder).on_run_start(run.start())
    assert victim.read_text() == "mine"
