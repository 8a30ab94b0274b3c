from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.tracking.console import Console
from perdure.tracking.events import StepLog, TaskStart, Tick

LIVE = re.compile(r"\r[^\n]*ETA [^\n]*\x1b\[K")
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-7]|9[0-7])[;m]")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass only when a test advances them."""
    now = [0.0]
    monkeypatch.setattr("perdure.tracking.console.time.monotonic", lambda: now[0])
    return now


def piped(run: Any, **arguments: Any) -> str:
    stream = io.StringIO()
    run.play(Console(stream, **arguments))
    return stream.getvalue()


def test_a_pipe_gets_plain_lines(run: Any) -> None:
    text = piped(run)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "er on seq-mnist, buffer 500, 3 tasks, seed 0" in text
    assert "89,610 backbone parameters on cpu" in text
    assert f"run folder {run.folder}" in text
    assert "task 1 (2/3): classes 2 3, 1,000 examples, 100 steps" in text


def test_the_table_after_a_task_is_aligned_percent(run: Any) -> None:
    lines = piped(run).splitlines()
    at = lines.index("after task 2 (3/3): classes 4 5, 0.8 s")
    assert lines[at + 1 : at + 4] == [
        "  accuracy %  task 0  task 1  task 2    mean",
        "  class-IL     90.72   94.76   98.80   94.76",
        "  task-IL      97.62   98.21   98.80   98.21",
    ]


def test_the_summary(run: Any) -> None:
    text = piped(run)
    assert text[text.index("finished") :].splitlines() == [
        "finished: er on seq-mnist, buffer 500",
        "  percent   average accuracy  forgetting",
        "  class-IL             94.76       12.50",
        "  task-IL              98.21       12.50",
        "  time 2.0 s (training 0.5 s)",
        "  speed 600 training steps/s",
        f"  run folder {run.folder}",
    ]


def test_joint_training_has_no_task_numbers(make_run: Callable[..., Any]) -> None:
    text = piped(make_run(joint=True))
    assert "3 tasks at once" in text
    assert "after joint training" in text
    assert "trained jointly" in text
    assert "task 0 (1/1)" not in text


def test_many_tasks_are_reported_by_mean_worst_and_last(make_run: Callable[..., Any]) -> None:
    lines = piped(make_run(n_tasks=20)).splitlines()
    at = lines.index("after task 19 (20/20): classes 38 39, 0.8 s")
    assert lines[at + 1].split() == ["accuracy", "%", "mean", "worst", "last"]
    assert lines[at + 2].split() == ["class-IL", "58.72", "20.34", "(task", "0)", "97.10"]
    assert max(map(len, lines[at : at + 4])) <= 60


@pytest.mark.parametrize("n_tasks", [3, 5, 20], ids=str)
@pytest.mark.parametrize("columns", [40, 60, 80], ids=str)
def test_tables_fit_a_narrow_terminal(
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    on_terminal: Callable[..., str],
    columns: int,
    n_tasks: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run = make_run(folder=Path("outputs"), n_tasks=n_tasks)
    text = on_terminal(lambda stream: run.play(Console(stream)))
    shown = re.sub(r"\x1b\[[\d;]*[mK]", "", text)
    assert max(len(line) for line in re.split(r"[\r\n]+", shown)) <= columns
    assert "class-IL" in shown


def test_the_shape_of_the_table_is_the_same_for_every_task(make_run: Callable[..., Any]) -> None:
    headers = [line for line in piped(make_run(n_tasks=20)).splitlines() if "accuracy %" in line]
    assert len(headers) == 20
    assert len(set(headers)) == 1


def test_a_terminal_gets_a_live_line_tables_and_colors(
    run: Any, on_terminal: Callable[..., str]
) -> None:
    text = on_terminal(lambda stream: run.play(Console(stream)))
    assert "Traceback" not in text
    assert LIVE.search(text)
    assert "━" in text
    assert COLOUR.search(text)
    assert "\x1b[?25l" not in text, "a kill would leave the cursor hidden"
    shown = re.sub(r"\x1b\[[\d;]*[mK]", "", text)
    assert "class-IL     90.72   94.76   98.80   94.76" in shown
    assert "forgetting" in shown
    assert shown.rstrip().endswith(f"run folder {run.folder}")


def test_no_color_is_respected(
    run: Any, monkeypatch: pytest.MonkeyPatch, on_terminal: Callable[..., str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(lambda stream: run.play(Console(stream)))
    assert LIVE.search(text)
    assert not COLOUR.search(text)


def test_a_dumb_terminal_gets_plain_lines(
    run: Any, monkeypatch: pytest.MonkeyPatch, on_terminal: Callable[..., str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in on_terminal(lambda stream: run.play(Console(stream)))


def test_a_terminal_without_unicode_gets_a_bar_of_ascii(
    run: Any, on_terminal: Callable[..., str]
) -> None:
    text = on_terminal(lambda stream: run.play(Console(stream)), encoding="ascii")
    assert "###" in text


def test_plain_can_be_chosen_either_way(run: Any, on_terminal: Callable[..., str]) -> None:
    assert "\x1b" not in on_terminal(lambda stream: run.play(Console(stream, plain=True)))
    assert LIVE.search(piped(run, plain=False))


def ticks(console: Console, clock: list[float], seconds: float, every: float = 0.05) -> None:
    """A task that takes `seconds`, with a tick `every` so often."""
    n_ticks = round(seconds / every)
    console.receive(TaskStart(0, "all", 10 * n_ticks, n_ticks, n_ticks))
    for step in range(1, n_ticks + 1):
        clock[0] += every
        console.receive(Tick(0, 0, step, step))


@pytest.mark.parametrize(
    ("seconds", "lines"), [(20.0, 0), (100.0, 3), (1000.0, 10)], ids=["short", "middle", "long"]
)
def test_plain_progress_is_rare(run: Any, clock: list[float], seconds: float, lines: int) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.receive(run.start())
    ticks(console, clock, seconds)
    assert stream.getvalue().count("ETA") == lines


def test_the_live_line_is_refreshed_five_times_a_second_at_most(
    run: Any, clock: list[float]
) -> None:
    stream = io.StringIO()
    console = Console(stream, plain=False)
    console.receive(run.start())
    ticks(console, clock, 10.0)
    assert 40 <= stream.getvalue().count("\r") <= 50


def test_progress_tells_rate_loss_and_eta(run: Any, clock: list[float]) -> None:
    stream = io.StringIO()
    console = Console(stream, plain=False)
    console.receive(run.start())
    console.receive(TaskStart(1, "classes 2 3", 1000, 100, 50))
    console.receive(StepLog(1, 1, 10, 60, 0.25, 0.1, 5.0))
    clock[0] = 2.0
    console.receive(Tick(1, 1, 60, 60))
    for words in ("task 1 (2/3)", " 60 %", "epoch 2/2", "30 steps/s", "loss 0.2500", "ETA 0:05"):
        assert words in stream.getvalue()


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_did_not_finish_says_so_in_one_line(run: Any, status: str) -> None:
    stream = io.StringIO()
    console = Console(stream)
    for event in (run.start(), *run.task(0)):
        console.receive(event)
    console.receive(run.end(1, status, error="stopped\n  by SIGTERM;\x1b[2J resume with X"))
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith(status)]
    assert line.endswith("1 of 3 tasks done, step 100: stopped by SIGTERM; [2J resume with X")


def test_a_run_without_a_finished_task_ends_without_a_table(run: Any) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.receive(run.start())
    console.receive(run.end(0, "failed", error="the loss is not a number"))
    assert "average accuracy" not in stream.getvalue()
    assert "failed: er on seq-mnist" in stream.getvalue()


def test_a_resumed_run_and_its_notices_are_reported(run: Any) -> None:
    stream = io.StringIO()
    Console(stream).receive(run.start(2, notices=("model=sgd ignores buffer.size",)))
    assert "resuming after step 200" in stream.getvalue()
    assert "note: model=sgd ignores buffer.size" in stream.getvalue()


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "terminal"])
def test_the_log_holds_all_but_the_progress(
    run: Any, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    with caplog.at_level(logging.INFO, "perdure"):
        piped(run, plain=plain)
    messages = [record.getMessage() for record in caplog.records]
    assert "  class-IL     90.72   94.76   98.80   94.76" in messages
    assert "finished: er on seq-mnist, buffer 500" in messages
    assert "checkpoint 2.pt (task 2, step 300)" in messages
    assert "er on seq-mnist, buffer 500, 3 tasks, seed 0" in messages
    assert not any("ETA" in message or "\x1b" in message for message in messages)
    assert messages.count("task 0 (1/3): classes 0 1, 1,000 examples, 100 steps") == 1
