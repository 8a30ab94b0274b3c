"""A run made of events alone, to be played to recorders."""

from __future__ import annotations

import io
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.tracking.events import (
    CheckpointSaved,
    Evaluation,
    Event,
    Recorder,
    RunEnd,
    RunStart,
    StepLog,
    TaskEnd,
    TaskStart,
    Tick,
)

STEPS = 100
LOG_EVERY = 20


class FakeRun:
    """Yields the events of a whole run; what it reports is a function of its arguments alone."""

    def __init__(
        self,
        folder: Path,
        n_tasks: int = 3,
        scenarios: tuple[str, ...] = ("class_il", "task_il"),
        joint: bool = False,
        model: str = "er",
        clock: float = 1.0,
    ) -> None:
        self.folder = folder
        self.n_tasks = n_tasks
        self.scenarios = scenarios
        self.joint = joint
        self.model = model
        self.clock = clock
        """A factor on all that is measured with a clock."""

    def results(self, tasks_done: int, status: str = "running") -> dict[str, Any]:
        """The results dict after `tasks_done` tasks."""
        shown = {name: self._rows(tasks_done, index) for index, name in enumerate(self.scenarios)}
        average = {name: sum(rows[-1]) / len(rows[-1]) for name, rows in shown.items() if rows}
        after_two = tasks_done > 1 and not self.joint
        return {
            "model": self.model,
            "dataset": "seq-mnist",
            "seed": 0,
            "timestamp": "20261122-072200",
            "status": status,
            "training": "joint" if self.joint else "continual",
            "buffer_size": 500,
            "n_tasks": self.n_tasks,
            "tasks_done": tasks_done,
            "accuracy_matrix": shown,
            "average_accuracy": average,
            "forgetting": dict.fromkeys(self.scenarios, 0.125 if after_two else None),
            "forward_transfer": dict.fromkeys(self.scenarios),
            "global_step": STEPS * tasks_done,
            "seconds": {"training": 0.5 * self.clock, "total": 2.0 * self.clock},
            "cpu_seconds": {"training": 0.5 * self.clock, "total": 2.0 * self.clock},
            "environment": {"python": "3.11", "device": "cpu"},
        }

    def start(self, tasks_done: int = 0, **fields: Any) -> RunStart:
        """The first event of a run that starts after `tasks_done` tasks."""
        config = {"seed": 0, "buffer": {"size": 500}, "model": {"name": self.model}, "extra": {}}
        return RunStart(
            folder=self.folder,
            config=config,
            results=self.results(tasks_done),
            n_tasks=1 if self.joint else self.n_tasks,
            n_parameters=89_610,
            device="cpu",
            global_step=STEPS * tasks_done,
            **fields,
        )

    def task(self, task: int) -> Iterator[Event]:
        """The events of one task."""
        before = STEPS * task
        yield TaskStart(task, f"classes {2 * task} {2 * task + 1}", 1000, STEPS, STEPS)
        for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY):
            yield StepLog(task, 0, step, before + step, 1 / step, 0.1, 1500.0 * self.clock)
            yield Tick(task, 0, step, before + step)
        results = self.results(task + 1)
        last = {name: rows[-1] for name, rows in results["accuracy_matrix"].items()}
        yield Evaluation(task, 1, before + STEPS, True, last, "test", 0.1 * self.clock)
        yield TaskEnd(task, before + STEPS, 0.8 * self.clock, results)
        path = self.folder / "checkpoints" / f"{task}.pt"
        yield CheckpointSaved(path, task, before + STEPS, 0.01)

    def end(self, tasks_done: int | None = None, status: str = "finished", **fields: Any) -> RunEnd:
        """The last event."""
        done = (1 if self.joint else self.n_tasks) if tasks_done is None else tasks_done
        return RunEnd(self.results(done, status), **fields)

    def events(self) -> Iterator[Event]:
        """A run from its start to its end."""
        yield self.start()
        for task in range(1 if self.joint else self.n_tasks):
            yield from self.task(task)
        yield self.end()

    def play(self, recorder: Recorder) -> None:
        """Deliver all events of the run to `recorder`."""
        for event in self.events():
            recorder.receive(event)

    def _rows(self, tasks_done: int, scenario: int) -> list[list[float]]:
        def accuracy(after: int, task: int) -> float:
            return 0.99 - 0.0414 * (after - task) / (1 + 5 * scenario) - 0.001 * task

        if self.joint:
            return [[accuracy(0, 0) - 0.01 * task for task in range(self.n_tasks)]] * tasks_done
        return [[accuracy(i, j) for j in range(i + 1)] for i in range(tasks_done)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Builds a FakeRun in a fresh folder `run`, or in the one given."""

    def make(folder: Path | None = None, **arguments: Any) -> FakeRun:
        return FakeRun(folder or tmp_path / "run", **arguments)

    return make


@pytest.fixture
def run(make_run: Callable[..., FakeRun]) -> FakeRun:
    """Three tasks, class-IL and task-IL."""
    return make_run()


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person at the keyboard set must not matter."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def on_terminal() -> Callable[..., str]:
    """Gives a function that plays a run on a pseudo-terminal and returns what arrived there."""

    def play(play_on: Callable[[io.TextIOWrapper], None], encoding: str = "utf-8") -> str:
        master, slave = pty.openpty()
        arrived = bytearray()

        def listen() -> None:
            while True:
                try:
                    part = os.read(master, 4096)
                except OSError:
                    return
                if not part:
                    return
                arrived.extend(part)

        listener = threading.Thread(target=listen)
        listener.start()
        with open(slave, "w", encoding=encoding) as stream:
            play_on(stream)
        listener.join()
        os.close(master)
        return arrived.decode(encoding)

    return play
