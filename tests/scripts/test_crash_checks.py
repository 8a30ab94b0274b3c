"""The crash test's comparison: equal ends are equal, and whatever a crash could leave is named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crash_checks
import crash_test
import pytest
import torch
from process import train_in

from perdure.wandb.rows import to_row

pytestmark = pytest.mark.process

RUN = (
    "model=er", "dataset.iterations=8", "dataset.stop_after=2", "buffer.size=20",
    "checkpoint.save=true", "training.log_every=4", "tracking.console=off",
    "timestamp=20260101-000000",
)  # fmt: skip


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("calm")
    done = train_in(root, *RUN, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return root / "run"


@pytest.fixture
def other(calm: Path, tmp_path: Path) -> Path:
    """The same run in another folder; its report names that one."""
    folder = tmp_path / "other"
    shutil.copytree(calm, folder, symlinks=True)
    report = folder / "report.html"
    report.write_text(report.read_text().replace(str(calm), str(folder)))
    return folder


def weights(folder: Path) -> None:
    path = folder / "checkpoints" / "last.pth"
    state = torch.load(path, weights_only=True)
    next(iter(state["model_state_dict"].values())).view(-1)[0] += 1
    torch.save(state, path.resolve())


def text(name: str, before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        old = (folder / name).read_text()
        assert before in old
        (folder / name).write_text(old.replace(before, after))

    return change


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no report": (lambda f: (f / "report.html").unlink(), "report.html: missing"),
    "another report": (text("report.html", "buffer 20", "buffer 21"), "report.html: differs"),
    "no figure": (lambda f: (f / "figures/accuracy.svg").unlink(), "figures/accuracy.svg: missing"),
    "another figure": (text("figures/accuracy.svg", "seed 0", "seed 1"), "accuracy.svg: differs"),
    "temporary": (lambda f: (f / "checkpoints/.tmp-0").write_text(""), ".tmp-0: left over"),
    "rolling": (lambda f: (f / "checkpoints/step-3_full.pth").write_text(""), "step-3_full.pth"),
    "weights": (weights, "task1.1.pth"),
    "metrics": (text("metrics.jsonl", '"lr": 0.0', '"lr": 0.1'), "metrics.jsonl[0].lr"),
    "status": (text("status.json", "finished", "resumable"), "the run is not finished"),
}  # fmt: skip


def test_the_same_end_is_the_same(calm: Path, other: Path) -> None:
    log = json.loads((other / "results.json").read_text())["seconds"]
    report = other / "report.html"
    report.write_text(report.read_text().replace(f"{log['total']:.1f} s", "99.9 s"))
    assert crash_checks.compare_folders(calm, other) == []


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_differs_is_named(calm: Path, other: Path, name: str) -> None:
    change, told = CHANGES[name]
    change(other)
    found = crash_checks.compare_folders(calm, other)
    assert any(told in line for line in found), found


def test_each_row_is_to_be_on_the_server_once(calm: Path) -> None:
    lines = map(json.loads, (calm / "metrics.jsonl").read_text().splitlines())
    rows = [row for line in lines if (row := to_row(line)) is not None]
    assert len(rows) > 4
    clocks = {"_timestamp": 3.0, "speed/steps_per_second": 1.0}
    assert crash_checks.compare_rows(calm, [{**row, **clocks} for row in rows]) == []
    order = rows[1]["order"]
    twice, without = [*rows, rows[1]], [rows[0], *rows[2:]]
    assert crash_checks.compare_rows(calm, twice) == [f"W&B: row {order} is there 2 times"]
    assert crash_checks.compare_rows(calm, without) == [f"W&B: row {order} is missing"]
    changed = [rows[0], {**rows[1], "global_step": -1}, *rows[2:]]
    assert crash_checks.compare_rows(calm, changed) == [f"W&B: row {order} differs"]


def test_kills_are_aimed_at_every_place() -> None:
    for n in (4, 19, 100):
        aims = crash_test.aims(n, random.Random(0))
        assert len(aims) == n
        assert set(aims) == set(crash_test.PLACES)
        assert aims == sorted(aims, key=lambda place: place == "the end")
