"""Several methods with one budget: what each gets, what is written and said, a real comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FakeRuns
from process import environment

from perdure.cli import runs, tune
from perdure.cli.processes import Usage

pytestmark = pytest.mark.process

THREE = ("model=er,derpp,er-ace", "on=seq-fmnist", "score=seq-mnist", "--trials", "6")
NOTE = (
    "Budget: up to 6 trials for each method, of its own space, drawn at random without repetition "
    "where the grid is larger (search seed 0); a run a trial with each of the seeds 0, measured on "
    "dataset.validation=0.1 of seq-fmnist. The choice: the seeds 0, 1, 2, on the test set of "
    "seq-mnist."
)


def compared(folder: Path, *words: str) -> tuple[int, Any]:
    status = tune.main([*words, "--folder", str(folder), "--jobs", "1"])
    return status, json.loads((folder / "comparison.json").read_text())


def rows(folder: Path) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "comparison.md").read_text().splitlines()
        if line.startswith("|")
    ]


def test_each_method_gets_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)
    status, report = compared(tmp_path, *THREE, "--tune-seeds", "0")
    assert status == 0
    of = {name: [v for v in fake.commands if v["model"] == name] for name in report_names(report)}
    assert list(of) == ["er", "derpp", "er-ace"]
    for name, n in (("er", 4), ("derpp", 6), ("er-ace", 4)):
        trials = [v for v in of[name] if v["dataset"] == "seq-fmnist"]
        scored = [v for v in of[name] if v["dataset"] == "seq-mnist"]
        assert (len(trials), [v["seed"] for v in scored]) == (n, ["0", "1", "2"])
        assert {v["seed"] for v in trials} == {"0"}
        assert {v["dataset.validation"] for v in trials} == {"0.1"}
        assert all((tmp_path / name / "scored" / f"seed-{seed}").is_dir() for seed in range(3))
        alone = json.loads((tmp_path / name / "tune.json").read_text())
        assert (alone["budget"], alone["trials_run"], alone["scored"]["n"]) == (6, n, 3)
        assert alone["words"] == [f"model={name}", *THREE[1:3], "search=default"]
    er, derpp, _ = report["methods"]
    assert (er["trials_run"], er["grid_size"], er["folder"]) == (4, 4, "er")
    assert er["choice"] == {"optimizer.lr": 0.3}
    assert (er["mean"], er["std"], er["n"]) == pytest.approx((31.0, 1.0, 3))
    assert er["tuning_cpu_seconds"] == 8.0
    assert (derpp["trials_run"], derpp["grid_size"], derpp["own_space"]) == (6, 80, True)
    assert set(derpp["choice"]) == {"optimizer.lr", "model.alpha", "model.beta"}
    assert (report["budget"], report["search_seed"], report["tune_seeds"]) == (6, 0, [0])
    assert report["notes"] == [
        NOTE,
        "er: 4 of 6 trials, its whole grid.",
        "er-ace: 4 of 6 trials, its whole grid.",
    ]
    shown, written = capsys.readouterr().out, (tmp_path / "comparison.md").read_text()
    for note in report["notes"]:
        assert f"\n- {note}\n" in shown
        assert f"\n- {note}\n" in written
    assert rows(tmp_path)[0][:2] == ["method", "seq-mnist test %"]
    assert rows(tmp_path)[2] == [
        "er", "31.00 ± 1.00", "class-IL", "3", "4 of 4", "8.0", "optimizer.lr=0.3",
    ]  # fmt: skip


def report_names(report: Any) -> list[str]:
    return [row["method"] for row in report["methods"]]


def test_one_of_them_alone_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRuns(monkeypatch)
    compared(tmp_path / "both", *THREE)
    words = json.loads((tmp_path / "both" / "derpp" / "tune.json").read_text())["words"]
    tune.main([*words, "--trials", "6", "--folder", str(tmp_path / "alone"), "--jobs", "1"])
    both, alone = (
        json.loads((tmp_path / name / "tune.json").read_text()) for name in ("both/derpp", "alone")
    )
    assert both == alone


def test_words_replace_an_axis_for_all_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRuns(monkeypatch)
    _, report = compared(tmp_path, *THREE[:-1], "9", "optimizer.lr=0.2,0.4", "buffer.size=50")
    for row in report["methods"]:
        assert row["space"]["optimizer.lr"] == [0.2, 0.4]
    sizes = [(row["trials_run"], row["grid_size"]) for row in report["methods"]]
    assert sizes == [(2, 2), (9, 40), (2, 2)]


def test_without_their_spaces_the_typed_one_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRuns(monkeypatch)
    _, report = compared(tmp_path, *THREE, "search=null", "optimizer.lr=0.2,0.4")
    assert [row["space"] for row in report["methods"]] == [{"optimizer.lr": [0.2, 0.4]}] * 3
    assert [row["own_space"] for row in report["methods"]] == [None] * 3
    assert report["notes"][0].startswith("Budget: up to 6 trials for each method, of the space tha")


def test_a_method_without_a_space_is_in_the_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRuns(monkeypatch)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    content = "_target_: perdure.models.er.ER\nname: mine\n"
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(content)
    words = ("model=er,mine", *THREE[1:], "--config-dir", str(tmp_path / "conf"))
    _, report = compared(tmp_path / "found", *words)
    assert [row["own_space"] for row in report["methods"]] == [True, False]
    assert report["notes"][-1] == (
        "mine: has no space of its own (search=default); the learning rate alone was searched."
    )


def test_what_fails_is_said_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)
    fake.fails = {("seq-fmnist", rate) for rate in ("0.5", "0.6")} | {("seq-mnist", "0.8")}
    (tmp_path / "search" / "spaces").mkdir(parents=True)
    spaces = {"er": "0.5,0.6", "sgd": "0.7,0.5", "er-ace": "0.8,0.1"}
    for name, rates in spaces.items():
        path = tmp_path / "search" / "spaces" / f"{name}.yaml"
        path.write_text(f"optimizer.lr: {rates}\n")
    words = ("model=er,sgd,er-ace", *THREE[1:], "--config-dir", str(tmp_path))
    status, report = compared(tmp_path / "found", *words)
    assert status == 1
    er, sgd, ace = report["methods"]
    assert (er["mean"], er["choice"], er["trials_run"]) == (None, None, 2)
    assert (sgd["mean"], sgd["choice"]) == (pytest.approx(71.0), {"optimizer.lr": 0.7})
    assert (ace["mean"], ace["n"], ace["choice"]) == (None, 0, {"optimizer.lr": 0.8})
    assert report["notes"][-3:] == [
        "er: every trial failed, the first one: training diverged",
        "sgd: 1 of 2 trials failed.",
        "er-ace: 3 of 3 scored runs failed.",
    ]
    assert [row[1] for row in rows(tmp_path / "found")[2:]] == ["failed", "71.00 ± 1.00", "failed"]


def test_rows_of_different_accuracies_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRuns(monkeypatch)

    def by_method(*arguments: str, **options: Any) -> Usage:
        fake.metric = "task_il" if "model=hat" in arguments else "class_il"
        return fake(*arguments, **options)

    monkeypatch.setattr(runs, "python", by_method)
    _, report = compared(tmp_path, "model=er,hat", *THREE[1:-1], "2")
    assert [row["metric"] for row in report["methods"]] == ["class_il", "task_il"]
    assert report["notes"][-1] == (
        "Rows of different accuracies do not compare: class-IL of er; task-IL of hat."
    )


def test_an_interrupted_comparison_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRuns(monkeypatch)

    def interrupted(*arguments: str, **options: Any) -> Usage:
        if len(fake.commands) == 9:
            raise KeyboardInterrupt
        return fake(*arguments, **options)

    monkeypatch.setattr(runs, "python", interrupted)
    with pytest.raises(SystemExit) as end:
        compared(tmp_path, *THREE)
    assert end.value.code == 130
    assert f"with --folder {tmp_path} continues" in capsys.readouterr().err
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["trials_run"] for row in report["methods"]] == [4, 0, 0]
    assert [row[1] for row in rows(tmp_path)[2:]] == ["31.00 ± 1.00", "-", "-"]
    monkeypatch.setattr(runs, "python", fake)
    status, report = compared(tmp_path, *THREE)
    assert (status, len(fake.commands)) == (0, 4 + 3 + 6 + 3 + 4 + 3)
    assert compared(tmp_path, *THREE)[1] == report
    assert len(fake.commands) == 23


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=er,er-aec"], "model=er-aec: there is no such model"),
        (["model=er,derpp", "model.alpha=0.1,0.2"], "model.alpha"),
        (["model=er,derpp", "optimizer=adam"], "optimizer=adam: optimizer.lr=0.01,"),
        (["search=default"], "search=default: is the space of one method"),
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
        tune.main([*words, *THREE[1:3], "--folder", str(tmp_path / "new")])
    assert end.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"perdure: {sentence}")
    assert shown.count("\n") == 1
    assert not fake.commands
    assert not (tmp_path / "new").exists()
    if "," in words[0]:
        assert shown.count("model=er") == 1


# --- a real one -----------------------------------------------------------------------------------


def test_a_real_comparison(tmp_path: Path) -> None:
    """Trials on images made here, scored on the MNIST that the package holds."""
    (tmp_path / "bars.py").write_text(BARS)
    (tmp_path / "dataset").mkdir()
    content = (
        "# @package _global_\ndefaults: [seq-mnist, _self_]\n"
        "dataset: {name: bars, source: {_target_: bars.Bars}}\n"
    )
    (tmp_path / "dataset" / "bars.yaml").write_text(content)
    words = ["model=er,derpp", "on=bars", "score=seq-mnist", "dataset.iterations=10"]
    words += ["backbone.hidden=[16]", "tracking.console=off", "--trials", "2", "--score-seeds", "0"]
    source = str(Path(tune.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "perdure", "tune", *words, "--config-dir", ".", "--folder", "found"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": os.pathsep.join([source, str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "found"
    report = json.loads((folder / "comparison.json").read_text())
    assert report_names(report) == ["er", "derpp"]
    for row in report["methods"]:
        results = json.loads((folder / row["folder"] / "scored/seed-0/results.json").read_text())
        assert (results["model"], results["split"]) == (row["method"], "test")
        assert row["mean"] == pytest.approx(100 * results["average_accuracy"]["class_il"])
        assert (row["trials_run"], row["n"], row["std"]) == (2, 1, None)
        assert row["tuning_cpu_seconds"] > 0
    assert done.stdout.splitlines()[-1] == f"written to {folder}"


BARS = """\
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
"""
