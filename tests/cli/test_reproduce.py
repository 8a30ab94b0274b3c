"""Reproducing tables: real runs of a few steps, what is kept, and the arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import reproduce, runs
from perdure.cli.processes import TRAIN, Usage
from perdure.cli.reproduce import Run, Setting
from perdure.config.published import published
from perdure.config.recipe import notices
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.run.api import compose

ER = Setting(
    "dark-experience/seq-mnist/er-500",
    paper={"class_il": 86.12, "task_il": 99.04},
    bands={"class_il": (85.0, 89.0), "task_il": (98.8, 100.0)},
)


def run(seed: int, class_il: float, task_il: float = 99.0) -> Run:
    return Run(seed, {"class_il": class_il, "task_il": task_il}, 4.0 + seed, 2.0 + seed)


class FakeRuns:
    """Stands in for processes: each writes results.json, with the seed as its accuracy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.status = 0
        monkeypatch.setattr(runs, "python", self)

    def __call__(self, *arguments: str, log: Path, variables: dict[str, str]) -> Usage:
        assert arguments[: len(TRAIN)] == TRAIN
        assert variables == {}
        overrides = arguments[len(TRAIN) :]
        self.commands.append(list(overrides))
        values = dict(o.split("=", 1) for o in overrides)
        folder = Path(values["hydra.run.dir"])
        assert not folder.exists(), "a run starts in a fresh folder"
        folder.mkdir(parents=True)
        log.write_text("a line\nwhat went wrong\n")
        if self.status == 0:
            average = {"class_il": float(values["seed"]) / 100}
            (folder / "results.json").write_text(json.dumps({"average_accuracy": average}))
        return Usage(self.status, 3.0, 2.0, 100.0)


def test_a_row_by_hand() -> None:
    row = reproduce.row(ER, [run(2, 90.0), run(0, 86.0), run(1, 88.0, 99.3)])
    assert row["seeds"] == [0, 1, 2]
    assert row["accuracy"]["class_il"] == [86.0, 88.0, 90.0]
    assert row["mean"] == {"class_il": 88.0, "task_il": pytest.approx(99.1)}
    assert row["sd"]["class_il"] == 2.0
    assert row["inside"] == {"class_il": True, "task_il": True}
    assert (row["wall_seconds"], row["cpu_seconds"]) == (5.0, 3.0)
    assert row["failures"] == {}


@pytest.mark.parametrize(
    ("class_il", "inside"),
    [(84.99, False), (85.0, True), (89.0, True), (89.01, False)],
    ids=["below", "lowest", "highest", "above"],
)
def test_a_band_includes_its_ends(class_il: float, inside: bool) -> None:
    assert reproduce.row(ER, [run(0, class_il)])["inside"]["class_il"] is inside


def test_one_seed_has_no_deviation_and_other_settings_no_verdict() -> None:
    row = reproduce.row(ER, [run(0, 10.0)], judge=False)
    assert row["sd"] == {"class_il": None, "task_il": None}
    assert row["inside"] == {}


def test_the_table() -> None:
    failed = Run(1, {}, 1.0, 1.0, "it broke")
    domain = Setting("perm-mnist/sgd", {"domain_il": 40.7}, {"domain_il": 39.53})
    report = [
        reproduce.row(ER, [run(0, 84.0), run(2, 85.0), failed]),
        reproduce.row(domain, [Run(0, {"domain_il": 41.0}, 60.0, 50.0)]),
    ]
    heads, _, first, second = reproduce.report_table(report).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (first, second)]
    assert heads.startswith("| setting ")
    assert cells[0] == [
        ER.name, "2 (1 failed)", "84.50 ± 0.71", "99.00 ± 0.00", "86.12 / 99.04", "",
        "85–89 / 98.8–100", "NO / yes", "5.0", "3.0",
    ]  # fmt: skip
    assert cells[1] == [
        "perm-mnist/sgd", "1", "41.00", "", "40.70", "39.53", "", "", "60.0", "50.0",
    ]  # fmt: skip


def test_a_run_in_a_line() -> None:
    line = reproduce.line("er", run(3, 87.123))
    assert line == "er seed 3: class-IL 87.12, task-IL 99.00 (5.0 CPU s)"
    failed = reproduce.line("er", Run(3, {}, 0, 0, "it broke"))
    assert failed == "er seed 3: FAILED: it broke"


def test_what_is_finished_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRuns(monkeypatch)
    first = reproduce.reproduce([ER], [1, 2], 2, tmp_path)
    assert first[0]["accuracy"]["class_il"] == [1.0, 2.0]
    again = reproduce.reproduce([ER], [1, 2, 3], 1, tmp_path)
    assert again[0]["accuracy"]["class_il"] == [1.0, 2.0, 3.0]
    assert again[0]["cpu_seconds"] == 2.0
    assert [command[1] for command in fake.commands[2:]] == ["seed=3"]
    assert json.loads((tmp_path / "reproduce.json").read_text())[0]["mean"] == again[0]["mean"]
    assert f"| {ER.name} |" in (tmp_path / "reproduce.md").read_text()


def test_other_overrides_or_an_interrupted_run_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    reproduce.reproduce([ER], [1], 1, tmp_path)
    reproduce.reproduce([ER], [1], 1, tmp_path, ["optimizer.lr=0.5"])
    assert fake.commands[1][:3] == [f"experiment={ER.name}", "seed=1", "optimizer.lr=0.5"]
    (tmp_path / ER.name / "seed-1.json").unlink()
    reproduce.reproduce([ER], [1], 1, tmp_path, ["optimizer.lr=0.5"])
    assert len(fake.commands) == 3


def test_a_failed_run_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    fake.status = 1
    (row,) = reproduce.reproduce([ER], [1], 1, tmp_path)
    assert row["failures"] == {1: "what went wrong"}
    assert row["mean"] == {}
    fake.status = 0
    (row,) = reproduce.reproduce([ER], [1], 1, tmp_path)
    assert row["failures"] == {}


@pytest.mark.process
def test_the_exit_status_tells_of_a_band_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeRuns(monkeypatch)
    asked = ["--only", "seq-mnist/joint", "--folder", str(tmp_path), "--seeds"]
    assert reproduce.main([*asked, "95", "96"]) == 0
    assert reproduce.main([*asked, "90"]) == 1
    assert reproduce.main(["--only", "seq-mnist/nothing"]) == 2
    assert "no setting that can be run has such a name" in capsys.readouterr().err


SETTINGS = reproduce.settings([])


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_setting_with_a_band_is_an_exact_one(setting: Setting) -> None:
    config: Any = compose(*setting.overrides)
    validate(config)
    (notice,) = notices(config)
    assert notice.startswith(f"published setting {setting.name}: ")
    for name, (low, high) in setting.bands.items():
        assert low <= setting.rerun[name] <= high


def test_settings_are_chosen_by_the_start_of_their_names() -> None:
    assert [s.name for s in SETTINGS if "seq-mnist" in s.name]
    names = [s.name for s in reproduce.settings(["seq-mnist/er"])]
    assert names == [f"dark-experience/seq-mnist/er-{size}" for size in (200, 500, 5120)]
    every = [s.name for s in reproduce.settings(["dark-experience/seq-mnist"])]
    assert {*names, "dark-experience/seq-mnist/joint"} < set(every)
    known = {row.name for row in published.settings.values() if row.row.method == "l2p"}
    with pytest.raises(UserError, match="no setting that can be run has such a name"):
        reproduce.settings(sorted(known))  # there is no such method


def test_a_folder_of_the_user_is_named_before_all_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    reproduce.reproduce([ER], [1], 1, tmp_path, ["--config-dir=/here", "threads=1"])
    assert fake.commands[0][:4] == [
        "--config-dir=/here", f"experiment={ER.name}", "seed=1", "threads=1",
    ]  # fmt: skip


@pytest.mark.process
def test_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--only", "seq-mnist/er-500", "--seeds", "7", "--folder", str(tmp_path)]
    tiny = ["dataset.stop_after=1", "dataset.iterations=30"]
    assert reproduce.main([*tiny, *asked]) == 0
    results = json.loads((tmp_path / ER.name / "seed-7/results.json").read_text())
    assert (results["status"], results["seed"], results["global_step"]) == ("finished", 7, 30)
    (row,) = json.loads((tmp_path / "reproduce.json").read_text())
    assert row["accuracy"]["class_il"] == [100 * results["average_accuracy"]["class_il"]]
    assert row["inside"] == {}
    assert row["cpu_seconds"] > results["cpu_seconds"]["total"]
    assert reproduce.main(["no.such=1", *asked]) == 1
    assert "FAILED: perdure: no.such: there is no such key" in capsys.readouterr().out
