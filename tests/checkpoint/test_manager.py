"""Names of checkpoints, and which of them stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.checkpoint.cadence import Cadence
from perdure.checkpoint.format import read
from perdure.checkpoint.manager import CheckpointManager, stem
from perdure.errors import UserError
from perdure.training.state import Position

STEM = stem("my-", "er", "seq-mnist", 500, 1, "20261122-045600")


def manager(folder: Path, save: bool, joint: bool = False) -> CheckpointManager:
    return CheckpointManager(folder, STEM, save, Cadence(), joint, {"overrides": ["seed=1"]})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".json")


def test_one_file_a_task_under_its_name(tmp_path: Path) -> None:
    kept = manager(tmp_path, save=True)
    for task in range(3):
        kept.save({"task": task}, Position(task + 1, 0, 0, 10 * task), task)
    kept.finish()
    assert names(tmp_path) == [
        f"my-er_seq-mnist_500_1_20261122-045600_{task}.pt" for task in range(3)
    ]
    assert read(tmp_path / f"{STEM}_2.pt")["overrides"] == ["seed=1"]


def test_a_joint_run_says_joint(tmp_path: Path) -> None:
    kept = manager(tmp_path, save=True, joint=True)
    assert kept.save({}, Position(1, 0, 0, 10), 0) == tmp_path / f"{STEM}_joint.pt"


def test_the_newest_two_rolling_files_stay_until_a_good_end(tmp_path: Path) -> None:
    kept = manager(tmp_path / "checkpoints", save=False)
    for step in (10, 20, 30):
        kept.save({"step": step}, Position(0, 0, step, step), None)
    kept.save({"step": 40}, Position(1, 0, 0, 40), 0)
    assert names(tmp_path / "checkpoints") == ["step-30_full.pth", "step-40_full.pth"]
    assert read(tmp_path / "checkpoints" / "step-40_full.pth")["step"] == 40
    kept.finish()
    assert not (tmp_path / "checkpoints").exists()


def test_the_rolling_files_never_take_a_task_file_with_them(tmp_path: Path) -> None:
    kept = manager(tmp_path, save=True)
    for step in (10, 20, 30):
        kept.save({}, Position(0, 0, step, step), None)
    kept.save({}, Position(1, 0, 0, 40), 0)
    kept.finish()
    assert names(tmp_path) == [f"{STEM}_0.pt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        manager(tmp_path, save=True).save({}, Position(), 0)


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="cannot write the checkpoint"):
        manager(tmp_path / "checkpoints", save=True).save({}, Position(), 0)
