"""Stands in for the processes that `perdure tune` starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.cli import runs
from perdure.cli.processes import TRAIN, Usage
from perdure.run.sealed import VARIABLE


class FakeRuns:
    """Stands in for processes: accuracies are a function of the learning rate and the seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[dict[str, str]] = []
        self.sealed: list[str] = []
        self.accuracy: dict[str, float] = {}
        self.fails: set[tuple[str, str]] = set()  # benchmark and learning rate
        self.metric = "class_il"
        self.split: str | None = None
        monkeypatch.setattr(runs, "python", self)

    def __call__(self, *arguments: str, log: Path, variables: dict[str, str]) -> Usage:
        assert arguments[: len(TRAIN)] == TRAIN
        values = dict(word.split("=", 1) for word in arguments[len(TRAIN) :])
        self.commands.append(values)
        self.sealed.append(variables.get(VARIABLE, ""))
        folder = Path(values["hydra.run.dir"])
        assert not folder.exists(), "a run starts in a fresh folder"
        folder.mkdir(parents=True)
        log.write_text("a line\nperdure: training diverged\n")
        rate = values["optimizer.lr"]
        if (values["dataset"], rate) in self.fails:
            return Usage(1, 3.0, 5.0, 100.0)
        value = self.accuracy.get(rate, float(rate)) + float(values["seed"]) / 100
        average = {"class_il": None, "task_il": 0.9, self.metric: value}
        split = self.split or ("validation" if "dataset.validation" in values else "test")
        (folder / "results.json").write_text(
            json.dumps({"average_accuracy": average, "split": split})
        )
        return Usage(0, 3.0, 2.0, 100.0)
