"""Tuning: the space, the choice and the arithmetic by hand, what is refused, a real search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml
from fake_runs import FakeRuns
from process import environment

from perdure.cli import runs, tune
from perdure.cli.processes import Usage
from perdure.cli.runs import Ended
from perdure.cli.search_space import Point, space_of
from perdure.cli.tune_report import Trial
from perdure.errors import UserError
from perdure.run.sealed import VARIABLE

pytestmark = pytest.mark.process

MNIST = "perdure.datasets.sources.MNIST"
PAIR = ("model=sgd", "on=seq-fmnist", "score=seq-mnist")


def search(folder: Path, *words: str, pair: tuple[str, ...] = PAIR) -> tuple[int, Any]:
    status = tune.main([*pair, *words, "--folder", str(folder), "--jobs", "1"])
    return status, json.loads((folder / "tune.json").read_text())


# --- the space ------------------------------------------------------------------------------------


def test_without_several_values_it_is_the_learning_rate() -> None:
    space = space_of(["model=er", "buffer.size=200"])
    assert space.fixed == ("model=er", "buffer.size=200")
    assert space.values == {"optimizer.lr": [0.01, 0.03, 0.1, 0.3]}


def test_values_are_what_hydra_reads() -> None:
    words = ["+model.a=range(1,4)", "backbone.hidden=[16],[32,4]", "b=x,null,'y,z'", "c=1"]
    space = space_of(words)
    assert space.values == {
        "model.a": [1, 2, 3],
        "backbone.hidden": [[16], [32, 4]],
        "b": ["x", None, "y,z"],
    }
    assert space.fixed == ("c=1",)
    assert space.size == 18
    assert space.point(10).words == ("+model.a=2", "backbone.hidden=[32,4]", "b=null")
    assert space.point(10).values == {"model.a": 2, "backbone.hidden": [32, 4], "b": None}


def test_a_value_given_twice_counts_once() -> None:
    assert space_of(["optimizer.lr=0.1,0.2,0.1"]).size == 2


def test_the_whole_grid_where_the_budget_is_enough_in_order() -> None:
    space = space_of(["a=1,2", "b=3,4,5"])
    for budget in (6, 7):
        points = space.draw(budget, seed=5)
        assert [tuple(point.values.values()) for point in points] == [
            (a, b) for a in (1, 2) for b in (3, 4, 5)
        ]
        assert [point.number for point in points] == list(range(6))


def test_else_a_random_part_of_it_that_the_seed_decides() -> None:
    space = space_of(["a=range(0,1000)", "b=range(0,1000)", "c=range(0,1000)"])
    drawn = [[point.number for point in space.draw(20, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert drawn[0] == sorted(drawn[0])
    counts = [0] * 5
    for seed in range(200):
        for point in space_of(["a=range(0,5)"]).draw(2, seed):
            counts[point.number] += 1
    assert all(abs(count - 80) < 4 * (200 * 0.4 * 0.6) ** 0.5 for count in counts)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (["a=interval(0,1)"], r"^a=interval\(0,1\): its values cannot be listed .* must be"),
        (["model=glob(*)"], "cannot be listed"),
        (["a=shuffle(1,2)"], "cannot be listed in order"),
        (["a=1,2", "a=3"], "^a=3: a is set already$"),
        (["optimizer.lr=0.1"], "optimizer.lr is set already; give it several values"),
    ],
)
def test_what_is_no_space_is_refused(words: list[str], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        space_of(words)


# --- the arithmetic -------------------------------------------------------------------------------


def ended(**average: float | None) -> Ended:
    return Ended({"average_accuracy": average, "split": "validation"}, 3.0, 2.0)


def trial() -> Trial:
    return Trial(Point(4, ("a=1",), {"a": 1}), "validation")


def test_the_value_of_a_trial_is_the_mean_over_seeds() -> None:
    found = trial()
    assert (found.mean, found.value, found.std) == (None, None, None)
    found.take(3, ended(class_il=0.5, task_il=0.9))
    assert (found.value, found.std) == (50.0, None)
    found.take(1, ended(class_il=0.6, task_il=0.8))
    assert found.value == pytest.approx(55.0)
    assert found.std == pytest.approx(50**0.5)
    assert found.row()["accuracy"] == {"1": 60.0, "3": 50.0}
    assert found.row()["cpu_seconds"] == 4.0


def test_a_trial_with_a_failed_run_has_no_value() -> None:
    found = trial()
    found.take(0, ended(class_il=0.5))
    found.take(1, Ended({}, 1.0, 7.0, "it diverged"))
    assert (found.value, found.mean) == (None, 50.0)
    assert found.row()["failures"] == {"1": "it diverged"}
    assert found.row()["mean"] is None
    assert found.row()["cpu_seconds"] == 9.0


@pytest.mark.parametrize(
    ("average", "metric", "value"),
    [
        ({"class_il": 0.4, "task_il": 0.9}, "class_il", 40.0),
        ({"domain_il": 0.3}, "domain_il", 30.0),
        ({"class_il": None, "task_il": 0.9}, "task_il", 90.0),
    ],
)
def test_which_accuracy_counts(average: dict[str, float | None], metric: str, value: float) -> None:
    found = trial()
    found.take(0, ended(**average))
    assert (found.metric, found.value) == (metric, value)


def test_a_run_on_the_wrong_split_counts_as_failed() -> None:
    found = trial()
    found.take(0, Ended({"average_accuracy": {"class_il": 0.5}, "split": "test"}, 1.0, 1.0))
    assert found.failures == {0: "measured on the test split, not the validation split"}
    found = trial()
    found.take(0, ended(class_il=None))
    assert "no accuracy is defined" in found.failures[0]


# --- the search -----------------------------------------------------------------------------------


def test_the_best_trial_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)
    words = ("optimizer.lr=0.1,0.5,0.2", "backbone.hidden=[8]", "--tune-seeds", "1", "3")
    status, report = search(tmp_path, *words)
    assert status == 0
    assert report["choice"] == {"optimizer.lr": 0.5}
    assert [row["mean"] for row in report["trials"]] == pytest.approx([12.0, 52.0, 22.0])
    scored = report["scored"]
    assert scored["accuracy"] == pytest.approx({"0": 50.0, "1": 51.0, "2": 52.0})
    assert (scored["mean"], scored["std"], scored["n"]) == pytest.approx((51.0, 1.0, 3))
    trials, last = fake.commands[:6], fake.commands[6:]
    for values in trials:
        assert values["dataset"] == "seq-fmnist"
        assert values["dataset.validation"] == "0.1"
    for values in last:
        assert values["dataset"] == "seq-mnist"
        assert "dataset.validation" not in values
        assert values["optimizer.lr"] == "0.5"
    assert [values["seed"] for values in fake.commands] == [*"13" * 3, *"012"]
    assert {(v["recipe"], v["backbone.hidden"]) for v in fake.commands} == {("none", "[8]")}
    assert fake.sealed == [MNIST] * 6 + [""] * 3
    shown = capsys.readouterr().out
    assert "trial 001: optimizer.lr=0.5 seed 3: class-IL 53.00 (2.0 CPU s)" in shown
    assert "scored: optimizer.lr=0.5 seed 2: class-IL 52.00 (2.0 CPU s)" in shown
    assert "train dataset=seq-mnist model=sgd 'backbone.hidden=[8]' optimizer.lr=0.5" in shown
    assert {"model", "on", "score", "words", "perdure", "commit", "date"} < set(report)
    assert (report["model"], report["budget"], report["trials_run"]) == ("sgd", 16, 3)
    assert report["space"] == {"optimizer.lr": [0.1, 0.5, 0.2]}
    cells = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in (tmp_path / "tune.md").read_text().splitlines()
        if row.startswith("|")
    ]
    assert [row[:3] for row in cells[2:5]] == [
        ["001", "0.5", "52.00 ± 1.41"],
        ["002", "0.2", "22.00 ± 1.41"],
        ["000", "0.1", "12.00 ± 1.41"],
    ]
    assert cells[-1] == ["choice", "0.5", "51.00 ± 1.00", "3", "6.0"]


def test_of_equal_trials_the_first_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    fake.accuracy = {"0.3": 0.5, "0.1": 0.7, "0.2": 0.7}
    _, report = search(tmp_path, "optimizer.lr=0.3,0.1,0.2")
    assert report["choice"] == {"optimizer.lr": 0.1}


def test_a_failed_trial_is_told_and_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)
    fake.fails = {("seq-fmnist", "0.5")}
    status, report = search(tmp_path, "optimizer.lr=0.5,0.1")
    assert (status, report["choice"]) == (0, {"optimizer.lr": 0.1})
    assert report["trials"][0]["failures"] == {"0": "perdure: training diverged"}
    shown = capsys.readouterr().out
    assert "trial 000: optimizer.lr=0.5 seed 0: FAILED: perdure: training diverged\n" in shown
    assert "failed | 0 (1 failed)" in (tmp_path / "tune.md").read_text()


def test_where_all_fail_nothing_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)
    fake.fails = {("seq-fmnist", "0.5"), ("seq-fmnist", "0.1")}
    with pytest.raises(SystemExit) as end:
        search(tmp_path, "optimizer.lr=0.5,0.1")
    assert end.value.code == 1
    sentence = "perdure: every trial failed, the first one: training diverged\n"
    assert capsys.readouterr().err == sentence
    report = json.loads((tmp_path / "tune.json").read_text())
    assert (report["choice"], report["scored"]) == (None, None)
    assert len(fake.commands) == 2


def test_a_failed_scored_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuns(monkeypatch)
    fake.fails = {("seq-mnist", "0.5")}
    status, report = search(tmp_path, "optimizer.lr=0.5,0.1")
    assert status == 1
    assert report["scored"]["n"] == 0
    assert set(report["scored"]["failures"]) == {"0", "1", "2"}


def test_what_has_finished_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    words = ("optimizer.lr=0.5,0.1", "--score-seeds", "0")
    first = search(tmp_path, *words)
    assert len(fake.commands) == 3
    assert search(tmp_path, *words) == first
    assert len(fake.commands) == 3
    _, longer = search(tmp_path, *words[:2], "0", "7")
    assert fake.commands[3]["seed"] == "7"
    assert len(fake.commands) == 4
    assert longer["scored"]["n"] == 2


def test_trials_that_were_not_sealed_so_are_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    search(tmp_path, "optimizer.lr=0.5,0.1", "--score-seeds", "0")
    pair = ("model=sgd", "on=seq-fmnist", "score=seq-cifar10")
    search(tmp_path, "optimizer.lr=0.5,0.1", "--score-seeds", "0", pair=pair)
    assert fake.sealed == [MNIST, MNIST, "", *["perdure.datasets.sources.CIFAR10"] * 2, ""]


def test_a_budget_below_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRuns(monkeypatch)
    words = ("optimizer.lr=range(1,31)", "--trials", "3", "--search-seed", "4")
    _, report = search(tmp_path, *words)
    drawn = [point.number for point in space_of(words[:1]).draw(3, 4)]
    assert [row["number"] for row in report["trials"]] == drawn
    assert (report["grid_size"], report["trials_run"], report["search_seed"]) == (30, 3, 4)


def test_the_held_out_part_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuns(monkeypatch)
    search(tmp_path, "optimizer.lr=0.5,0.1", "dataset.validation=0.25")
    assert [v.get("dataset.validation") for v in fake.commands] == ["0.25"] * 2 + [None] * 3


def test_an_interrupted_search_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)

    def interrupted(*arguments: str, **options: Any) -> Usage:
        if len(fake.commands) == 1:
            raise KeyboardInterrupt
        return fake(*arguments, **options)

    monkeypatch.setattr(runs, "python", interrupted)
    with pytest.raises(SystemExit) as end:
        search(tmp_path, "optimizer.lr=0.5,0.1")
    assert end.value.code == 130
    assert f"with --folder {tmp_path} continues" in capsys.readouterr().err
    report = json.loads((tmp_path / "tune.json").read_text())
    assert (report["trials_run"], report["choice"]) == (1, None)
    monkeypatch.setattr(runs, "python", fake)
    status, report = search(tmp_path, "optimizer.lr=0.5,0.1")
    assert (status, report["choice"]) == (0, {"optimizer.lr": 0.5})
    assert [v["optimizer.lr"] for v in fake.commands[:2]] == ["0.5", "0.1"]
    assert len(fake.commands) == 2 + 3


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score=seq-mnist"], "on=: is not set; must be "),
        (["on=seq-mnist"], "score=: is not set; must be "),
        ([*PAIR, "on=seq-cifar10"], "on=seq-cifar10: must be one benchmark"),
        (["on=a,b", "score=seq-mnist"], "on=a,b: must be one benchmark"),
        (["on=seq-nist", "score=seq-mnist"], "on=seq-nist: there is no such dataset"),
        (["on=seq-fmnist", "score=seq-nist"], "score=seq-nist: there is no such dataset"),
        (["on=seq-mnist", "score=seq-mnist"], "on=seq-mnist: is of the same data source as"),
        (["on=seq-mnist", "score=perm-mnist"], "on=seq-mnist: is of the same data source as"),
        ([*PAIR, f"dataset.source._target_={MNIST}"], "on=seq-fmnist: is of the same data source"),
        (["on=seq-fmnist", "score=perm-mnist"], "on=seq-fmnist: its scenario is "),
        ([*PAIR, "dataset.validation=0"], "dataset.validation=0: trials are measured on it; must"),
        ([*PAIR, "dataset.validation=0.1,0.2"], "dataset.validation=0.1,0.2: trials are "),
        ([*PAIR, "dataset=seq-mnist"], "dataset=seq-mnist: must be left out"),
        ([*PAIR, "seed=1,2"], "seed=1,2: must be left out"),
        ([*PAIR, "recipe=auto"], "recipe=auto: must be left out"),
        ([*PAIR, "search=derpp-seq-mnist"], "search=derpp-seq-mnist: must be default, the space"),
        ([*PAIR, "hydra.run.dir=x"], "hydra.run.dir=x: must be a key of the run's own"),
        ([*PAIR, "nonsense"], "nonsense: must be an override, key=value"),
        ([*PAIR, "optimizer.rate=1,2"], "optimizer.rate"),
        ([*PAIR, "dataset.epochs=0"], "dataset.epochs=0: must be an integer"),
        ([*PAIR, "--trials", "0"], "--trials 0: must be an integer, 1 or more"),
        ([*PAIR, "--score-seeds", "1", "1"], "--score-seeds 1 1: must be integers, 0 or more"),
        ([*PAIR, "--search-seed", "-1"], "--search-seed -1: must be integers, 0 or more"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = FakeRuns(monkeypatch)
    with pytest.raises(SystemExit) as end:
        tune.main([*words, "--folder", str(tmp_path / "new")])
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"perdure: {sentence}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not fake.commands
    assert not (tmp_path / "new").exists()


def test_a_subclass_is_of_the_same_data(tmp_path: Path) -> None:
    for sources in (("worlds.Few", MNIST), (MNIST, "worlds.Few")):
        _benchmarks(tmp_path, *sources)
        with pytest.raises(UserError, match="on=first: is of the same data source as score=second"):
            tune.search_of(["on=first", "score=second"], _options(tmp_path))


def _options(folder: Path) -> Namespace:
    return Namespace(
        trials=1, jobs=1, search_seed=0, tune_seeds=[0], score_seeds=[0], config_dir=folder
    )


def _benchmarks(folder: Path, first: str, second: str) -> None:
    """Benchmarks `first` and `second` like seq-mnist, of these data sources."""
    (folder / "dataset").mkdir(exist_ok=True)
    for name, target in (("first", first), ("second", second)):
        content = {
            "defaults": ["seq-mnist", "_self_"],
            "dataset": {"name": name, "source": {"_target_": target}},
        }
        text = f"# @package _global_\n{yaml.safe_dump(content)}"
        (folder / "dataset" / f"{name}.yaml").write_text(text)


# --- a real one -----------------------------------------------------------------------------------

OTHER = """\
import torch

from perdure.datasets.arrays import Arrays, Split


class Bars:
    name, shape, n_classes = "bars", (1, 28, 28), 10

    def load(self, root):
        y = torch.arange(400) % 10
        x = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
        for row, label in enumerate(y.tolist()):
            x[row, :, 2 * label : 2 * label + 3] = 200 + row % 50
        return Arrays(Split(x[:300], y[:300]), Split(x[300:], y[300:]), tuple("abcdefghij"))


def made():
    return Bars()
"""


def tune_in(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A real search in `folder`, which holds bars.py and two benchmarks; of two learning rates."""
    (folder / "bars.py").write_text(OTHER)
    words = ["model=sgd", "on=first", "score=second", "optimizer.lr=0.01,0.1"]
    words += ["dataset.iterations=20", "backbone.hidden=[16]", "tracking.console=off"]
    always = ["--config-dir", ".", "--folder", "found", "--jobs", "1"]
    source = str(Path(tune.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "perdure", "tune", *words, *always, *flags],
        cwd=folder,
        env={**environment(), "PYTHONPATH": os.pathsep.join([source, str(folder)])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_real_search(tmp_path: Path) -> None:
    _benchmarks(tmp_path, MNIST, "bars.Bars")
    done = tune_in(tmp_path, "--score-seeds", "0", "1")
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "found"
    report = json.loads((folder / "tune.json").read_text())
    values = []
    for number, row in enumerate(report["trials"]):
        results = json.loads((folder / f"trials/{number:03d}-seed-0/results.json").read_text())
        assert (results["split"], results["dataset"]) == ("validation", "first")
        values.append(100 * results["average_accuracy"]["class_il"])
        assert row["mean"] == pytest.approx(values[-1])
    assert report["choice"] == {"optimizer.lr": [0.01, 0.1][values.index(max(values))]}
    accuracies = []
    for seed in (0, 1):
        results = json.loads((folder / f"scored/seed-{seed}/results.json").read_text())
        assert (results["split"], results["dataset"]) == ("test", "second")
        accuracies.append(100 * results["average_accuracy"]["class_il"])
    scored = report["scored"]
    assert (scored["mean"], scored["std"]) == pytest.approx((mean(accuracies), stdev(accuracies)))
    assert report["sealed"] == "bars.Bars"
    record = json.loads((folder / "trials/000-seed-0.json").read_text())
    assert record["sealed"] == ["bars.Bars"]
    assert done.stdout.splitlines()[-1] == f"written to {folder}"


def test_a_real_trial_cannot_load_what_is_scored(tmp_path: Path) -> None:
    """Here only the trial's process sees that the function makes the scored source."""
    _benchmarks(tmp_path, "bars.made", "bars.Bars")
    done = tune_in(tmp_path, "--trials", "1")
    assert done.returncode == 1
    assert done.stderr == (
        "perdure: every trial failed, the first one: dataset.source._target_=bars.made: bars.Bars "
        f"is sealed while hyperparameters are tuned ({VARIABLE}); must be another data source\n"
    )
    assert not (tmp_path / "found" / "scored").exists()
