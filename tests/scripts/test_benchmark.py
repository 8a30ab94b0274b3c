"""The comparison and the phases: real loops on a few steps, and the arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark
import pytest
import reference_loop
import torch
import whole_runs

from perdure.cli.processes import Usage
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.transforms import Scale
from perdure.tracking.events import StepLog


class Counting:
    """A loop that only counts."""

    def __init__(self) -> None:
        self.turns: list[int] = []

    def train(self, steps: int) -> None:
        self.turns.append(steps)

    def evaluate(self) -> None:
        """Nothing to do."""


def clock(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    """Let the CPU clock give these readings, one a look."""
    looks = iter(readings)
    monkeypatch.setattr("time.process_time", lambda: next(looks))


def test_both_loops_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    # Made at 0; each turn looks at its end, before and after the rival, and when the next begins.
    clock(monkeypatch, 0, 9, 9, 99, 100, 103, 103, 110, 120, 125, 125, 140, 150)
    rival = Counting()
    turns = benchmark.Turns(5, {"other": rival})
    for step in (5, 10, 15):
        turns.receive(StepLog(0, 0, step, step, 0.5, 0.1, 1000.0))
    assert rival.turns == [5, 5, 5]
    assert turns.seconds == {"perdure": [3, 5], "other": [7, 15]}


def test_ratios_are_taken_round_by_round() -> None:
    figures = benchmark.against({"perdure": [1, 2, 4], "reference": [3, 4, 20]})
    assert figures["reference"] == {"seconds": 4, "ratio": {"min": 2, "median": 3, "max": 5}}
    assert figures["perdure"] == {"seconds": 2, "ratio": {"min": 1, "median": 1, "max": 1}}


@pytest.mark.parametrize("model", ["er", "derpp"])
def test_the_comparison_runs(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = []
    train = reference_loop.ReferenceLoop.train

    def spy(loop: reference_loop.ReferenceLoop, steps: int) -> None:
        train(loop, steps)
        assert (loop.dark is not None) == (model == "derpp")
        trained.append(steps)

    monkeypatch.setattr(reference_loop.ReferenceLoop, "train", spy)
    file = tmp_path / "figures.json"
    options = ["--model", model, "--steps", "20", "--rounds", "2", "--json", str(file)]
    benchmark.main(options)
    assert trained == [20, 20, 20]
    report = json.loads(file.read_text())
    assert (report["model"], report["batch_size"], report["buffer_size"]) == (model, 10, 500)
    assert report["test_images"] == 2115
    for phase in ("training", "evaluation"):
        assert report[phase].keys() == {"perdure", "reference"}
        ratio = report[phase]["reference"]["ratio"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    shown = capsys.readouterr().out
    assert f"{model} on seq-mnist's first task, buffer 500, batch 10; 2 rounds of 20" in shown
    assert shown.count("\n| ") == 5


def test_avalanche_is_left_out_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not benchmark._with_avalanche(benchmark._options(["--avalanche"]))
    assert capsys.readouterr().out == "avalanche: left out, it is not installed\n"
    assert not benchmark._with_avalanche(benchmark._options(["--avalanche", "--model", "derpp"]))
    assert "measured with er only" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--rounds", "--steps", "--runs"])
def test_counts_are_positive(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([option, "0"])
    assert f"argument {option}: 0: must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("dark", [None, (1.0, 0.5)], ids=["er", "derpp"])
def test_the_reference_loop_learns(mnist: Arrays, dark: tuple[float, float] | None) -> None:
    """What the package is compared with must be a loop that works."""
    tasks = ClassIncremental(mnist, 5)
    parts = tasks.train(1), tasks.evaluation(1)
    data = [(part.x[:, 0], part.y) for part in parts]
    torch.manual_seed(0)
    loop = reference_loop.ReferenceLoop(*data, 10, 0.1, 50, tasks.classes(1), dark)
    untrained = loop.evaluate()
    loop.train(60)
    assert len(loop.losses) == 60
    assert loop.buffer.seen == 600
    assert set(loop.buffer.fields["y"].tolist()) == {2, 3}
    class_il, task_il = loop.evaluate()
    assert untrained[0] < 0.8 < class_il <= task_il


def test_the_reference_loop_makes_the_same_inputs(mnist: Arrays) -> None:
    split = ClassIncremental(mnist, 5).evaluation(0)
    images = reference_loop.TrainingImages(split.x[:9, 0], split.y[:9])
    views, labels, plain = zip(*(images[i] for i in range(9)), strict=True)
    assert torch.equal(torch.stack(views), Scale()(split.x[:9]))
    assert torch.equal(torch.stack(plain), Scale()(split.x[:9]))
    assert list(labels) == split.y[:9].tolist()


def test_phases_by_hand() -> None:
    counted = {"start": 2.0, "training": 4.0, "evaluation": 0.5, "checkpoint": 0.25, "total": 6.75}
    phases = whole_runs.by_phase(counted, Usage(0, 9.0, 7.0, 300.0))
    assert phases == {
        "start": 2.0,
        "training": 4.0,
        "evaluation": 0.5,
        "checkpoint": 0.25,
        "rest": 0.25,
        "whole process": 7.0,
        "wall clock": 9.0,
        "peak MB": 300.0,
    }


@pytest.mark.process
def test_the_phases_of_a_real_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "IMPORTS", {"python": ("-c", "")})
    tiny = ["dataset.stop_after=1", "dataset.iterations=20"]
    report = whole_runs.whole_runs(["seq-mnist"], "er", 1, tiny)
    phases = report["phases"]["seq-mnist"]
    parts = ("start", "training", "evaluation", "checkpoint", "rest")
    assert all(phases[part]["min"] > 0 for part in parts)
    whole = sum(phases[part]["median"] for part in parts)
    assert whole == pytest.approx(phases["whole process"]["median"])
    shown = whole_runs.phases_table(report)
    assert "| er on seq-mnist: training " in shown
    assert "| python " in shown


@pytest.mark.process
def test_a_failing_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "IMPORTS", {})
    with pytest.raises(SystemExit, match="model=er dataset=no-such device=cpu failed:\nperdure: "):
        whole_runs.whole_runs(["no-such"], "er", 1)
