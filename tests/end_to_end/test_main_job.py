"""The main job of the README, whole, and what it leaves."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from process import ROOT, command, environment, run_folder, train_in

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.format import read
from perdure.cli.reproduce import settings

RARE = pytest.mark.exhaustive

MAIN = ("model=er", "dataset=seq-mnist", "checkpoint.save=true")
SHORT = ("dataset.iterations=60", "training.log_every=20")


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and screen of one whole run of the main job."""
    root = tmp_path_factory.mktemp("main")
    done = train_in(root, *MAIN)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return run_folder(root), done.stdout


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_reaches_the_published_accuracy(main_job: tuple[Path, str]) -> None:
    # The band is that of a mean over ten seeds; a single one may lie two of its deviations (1.7
    # over 25 seeds) outside.
    low, high = settings(["seq-mnist/er-500"])[0].bands["class_il"]
    results = results_of(main_job[0])
    assert results["status"] == "finished"
    assert low - 3.4 < 100 * results["average_accuracy"]["class_il"] < high + 3.4
    assert results["average_accuracy"]["task_il"] > 0.98
    assert results["global_step"] == 6002


def test_results_tell_what_ran(main_job: tuple[Path, str]) -> None:
    folder, _ = main_job
    results = results_of(folder)
    facts = ("model", "dataset", "seed", "buffer_size", "n_epochs", "timestamp", "split")
    assert [results[key] for key in facts] == [
        "er", "seq-mnist", 0, 500, 1, folder.name, "test",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{8}-\d{6}", folder.name)
    for scenario in ("class_il", "task_il"):
        rows = results["accuracy_matrix"][scenario]
        assert [len(row) for row in rows] == [1, 2, 3, 4, 5]
        assert results["average_accuracy"][scenario] == pytest.approx(sum(rows[-1]) / 5)
        best = [max(rows[i][j] for i in range(j, 4)) for j in range(4)]
        drops = [best[j] - rows[-1][j] for j in range(4)]
        assert results["forgetting"][scenario] == pytest.approx(sum(drops) / 4)
    assert {"start", "training", "evaluation", "checkpoint", "total"} <= set(results["seconds"])


def test_every_file_is_there(main_job: tuple[Path, str]) -> None:
    folder, _ = main_job
    names = {p.name for p in folder.iterdir()}
    assert names == {
        ".hydra", "code", "checkpoints", "results.json", "metrics.jsonl", "accuracy.csv",
        "figures", "report.html", "train.log", "status.json", "config.json", "records",
        ".lock",
    }  # fmt: skip
    figures = folder / "figures"
    assert {p.name for p in figures.iterdir()} == {
        "accuracy_matrix.svg", "accuracy_matrix.png", "accuracy.svg",
    }  # fmt: skip
    assert (figures / "accuracy_matrix.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (folder / "code" / "train.py").read_text() == (ROOT / "train.py").read_text()
    assert (folder / ".hydra" / "overrides.yaml").read_text().split() == [
        part for override in MAIN for part in ("-", override)
    ]
    assert "average accuracy" in (folder / "train.log").read_text()


def test_the_metrics_agree_with_the_results(main_job: tuple[Path, str]) -> None:
    folder, _ = main_job
    rows = rows_of(folder)
    steps = [row["global_step"] for row in rows if row["kind"] == "step"]
    assert steps == list(range(100, 6001, 100))
    with (folder / "accuracy.csv").open() as file:
        table = list(csv.DictReader(file))
    last = [float(row["class_il"]) for row in table if row["after_task"] == "4"]
    assert last == pytest.approx(results_of(folder)["accuracy_matrix"]["class_il"][-1])


def test_one_full_checkpoint_a_task(main_job: tuple[Path, str]) -> None:
    folder, _ = main_job
    checkpoints = folder / "checkpoints"
    names = [f"er_seq-mnist_500_1_{folder.name}_{task}.pt" for task in range(5)]
    epochs = [f"task{task}.1{kind}.pth" for task in range(5) for kind in ("", "_full")]
    links = [f"{name}{kind}.pth" for name in ("best", "last") for kind in ("", "_full")]
    files = [*names, *epochs]
    assert sorted(p.name for p in checkpoints.iterdir()) == sorted(
        [*files, *(f"{name}.json" for name in files), *links]
    )
    state = read(checkpoints / names[2])
    assert state["position"] == {"task": 3, "epoch": 0, "step": 0, "global_step": 3603}
    assert state["overrides"] == list(MAIN)
    assert state["args"]["model"]["name"] == "er"
    assert state["buffer"]["seen"] == 36017
    assert state["buffer"]["fields"]["raw"].dtype == torch.uint8
    assert sidecars.path_of(checkpoints / names[2]).is_file()
    assert torch.load(checkpoints / names[0], weights_only=True)["format"] == 2


def test_the_screen_tells_the_story(main_job: tuple[Path, str]) -> None:
    folder, screen = main_job
    assert "\x1b" not in screen
    assert "\r" not in screen
    assert "er on seq-mnist, buffer 500" in screen
    assert len(re.findall(r"class-IL +\d+\.\d\d", screen)) >= 5
    assert str(folder) in screen
    assert f"{100 * results_of(folder)['average_accuracy']['class_il']:.2f}" in screen


def test_the_same_command_gives_the_same_bits(tmp_path: Path) -> None:
    ends = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        done = train_in(tmp_path / name, "model=derpp", "checkpoint.save=true", *SHORT)
        assert done.returncode == 0, done.stderr
        (path,) = (run_folder(tmp_path / name) / "checkpoints").glob("*_4.pt")
        ends.append(read(path))
    for part in ("model", "optimizer"):
        assert str(ends[0][part]) == str(ends[1][part])
    for key, value in ends[0]["model"].items():
        assert torch.equal(value, ends[1]["model"][key])
    for key, value in ends[0]["buffer"]["fields"].items():
        assert torch.equal(value, ends[1]["buffer"]["fields"][key])


def test_a_good_end_leaves_no_rolling_checkpoint(tmp_path: Path) -> None:
    assert train_in(tmp_path, *SHORT, "checkpoint.every=20 steps").returncode == 0
    assert not (run_folder(tmp_path) / "checkpoints").exists()


def test_a_killed_run_keeps_what_it_had(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("checkpoint.every=50 steps", "training.log_every=50"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("after task 1"):
                break
        process.send_signal(signal.SIGKILL)
    folder = run_folder(tmp_path)
    results = results_of(folder)
    assert results["status"] == "running"
    assert len(results["accuracy_matrix"]["class_il"]) >= 2
    assert len([row for row in rows_of(folder) if row["kind"] == "task"]) >= 2
    newest = max(
        (p for p in (folder / "checkpoints").glob("*_full.pth") if sidecars.path_of(p).is_file()),
        key=lambda p: int(p.name.split("-")[1].split("_")[0]),
    )
    assert read(newest)["position"]["global_step"] >= 2450


def test_ctrl_c_saves_and_ends_in_one_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("after task 0"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        sentence = process.stderr.read()
    assert process.returncode == 75
    assert sentence.startswith("perdure: stopped by SIGINT; python train.py checkpoint.load=")
    assert sentence.count("\n") == 1
    assert results_of(run_folder(tmp_path))["status"] == "interrupted"


def test_two_runs_of_one_second_keep_apart(tmp_path: Path) -> None:
    while time.time() % 1 > 0.3:
        time.sleep(0.01)
    runs = [
        subprocess.Popen(
            command("model=sgd", "dataset.iterations=5", "tracking.console=off", f"seed={seed}"),
            cwd=tmp_path,
            env=environment(),
        )
        for seed in range(3)
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    folders = sorted((tmp_path / "outputs").iterdir())
    assert sorted(results_of(f)["seed"] for f in folders) == [0, 1, 2]
    assert [results_of(f)["timestamp"] for f in folders] == [f.name for f in folders]


def test_a_sweep_runs_every_combination(tmp_path: Path) -> None:
    done = train_in(
        tmp_path, "-m", "model=sgd,er", "seed=0,1", "buffer.size=200", "dataset.iterations=5",
        "checkpoint.save=true", "dataset.stop_after=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = run_folder(tmp_path)
    jobs = {name: results_of(folder / name) for name in "0123"}
    assert [(r["model"], r["seed"], r["buffer_size"]) for r in jobs.values()] == [
        ("sgd", 0, 0), ("sgd", 1, 0), ("er", 0, 200), ("er", 1, 200),
    ]  # fmt: skip
    assert {r["timestamp"] for r in jobs.values()} == {folder.name}
    assert done.stdout.count("sgd keeps no buffer: buffer.size=200 has no effect") == 2
    assert (folder / "2" / "checkpoints" / f"er_seq-mnist_200_1_{folder.name}_1.pt").is_file()


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ["dataset=perm-mnist", "dataset.n_tasks=3"],
            id="perm-mnist",
            marks=RARE,
        ),
        pytest.param(
            ["dataset=rot-mnist", "dataset.stop_after=2"],
            id="rot-mnist",
            marks=RARE,
        ),
        pytest.param(["model=sgd", "training=joint"], id="joint", marks=RARE),
        pytest.param(["dataset.validation=0.1", "dataset.class_order=random"], id="validation"),
        pytest.param(
            ["optimizer=adam", "scheduler=cosine", "training.precision=bf16"], id="adam-bf16"
        ),
        pytest.param(
            ["backbone=reduced-resnet18", "dataset.stop_after=1"],
            id="resnet",
            marks=RARE,
        ),
    ],
)
def test_other_ways_to_run(tmp_path: Path, overrides: list[str]) -> None:
    done = train_in(tmp_path, "dataset.iterations=6", "training.log_every=3", *overrides)
    assert done.returncode == 0, done.stderr
    assert results_of(run_folder(tmp_path))["status"] == "finished"
