"""What kills, other programs and people leave in a checkpoint folder stands in no run's way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.format import read, remove
from perdure.checkpoint.core.ledger import entries
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.errors import UserError
from perdure.run.resume import latest_intact
from perdure.training.state import Position, SaveContext

MONITOR = "average_accuracy.class_il"


def manager(folder: Path, policy: Policy | None = None) -> CheckpointManager:
    return CheckpointManager(folder, "er_1", policy or Policy(), Cadence())


def state(n: float) -> dict[str, Any]:
    return {"model": {"backbone.w": torch.tensor([n])}}


def step(n: int) -> SaveContext:
    return SaveContext(Position(0, 0, n, n), "task0", 0)


def task_end(task: int, n: int) -> SaveContext:
    return SaveContext(Position(task + 1, 0, 0, n), f"task{task}", 1, task, {MONITOR: 0.5})


def epoch_end(epoch: int) -> SaveContext:
    return SaveContext(Position(0, epoch, 0, epoch), "task0", epoch, None, {MONITOR: 0.5})


def with_field(name: str, value: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        sidecar = sidecars.path_of(file)
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), name: value}))

    return change


def with_text(text: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        sidecars.path_of(file).write_text(text)

    return change


def half(file: Path) -> None:
    sidecar = sidecars.path_of(file)
    sidecar.write_bytes(sidecar.read_bytes()[: sidecar.stat().st_size // 2])


def as_folder(file: Path) -> None:
    sidecars.path_of(file).unlink()
    sidecars.path_of(file).mkdir()


def as_link(file: Path) -> None:
    sidecar = sidecars.path_of(file)
    sidecar.rename(sidecar.with_suffix(".moved"))
    sidecar.symlink_to(sidecar.with_suffix(".moved").name)


FAULTS: dict[str, Callable[[Path], Any]] = {
    "no data": lambda file: file.unlink(),
    "data cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "data empty": lambda file: os.truncate(file, 0),
    "empty": with_text(""),
    "half": half,
    "no JSON": with_text("step 20"),
    "another value": with_text("[]"),
    "null": with_text("null"),
    "no text": lambda file: sidecars.path_of(file).write_bytes(b"\xff\xfe"),
    "deep": with_text("[" * 100_000),
    "deep objects": with_text('{"a":' * 100_000),
    "position a list": with_field("position", [1, 2]),
    "position empty": with_field("position", {}),
    "position of text": with_field("position", {"task": "0"}),
    "kind a list": with_field("kind", ["step"]),
    "bytes of text": with_field("bytes", "many"),
    "siblings a number": with_field("siblings", 3),
    "a folder": as_folder,
    "a link": as_link,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("saves", [False, True], ids=["rolling", "kept"])
def test_a_broken_newest_checkpoint_is_set_aside_and_the_one_before_taken(
    tmp_path: Path, fault: Callable[[Path], Any], saves: bool
) -> None:
    """And the run comes to the same name again, which another kill may follow."""
    home = tmp_path / "checkpoints"
    policy = Policy(save=saves, top_k=0)
    for task in (0, 1):
        manager(home, policy).save(state(task), task_end(task, 10 * task + 10))
    newest = entries(home)[-1].path
    fault(newest)
    for n in range(2):
        point = latest_intact(tmp_path)
        assert point is not None
        assert point.path == entries(home)[0].path
        assert point.state["model"]["backbone.w"] == 0
        resumed = manager(home, policy)
        resumed.save(state(1), task_end(1, 20))
        assert read(newest)["model"]["backbone.w"] == 1
        assert [e.order[0] for e in entries(home)] == [10, 20]
        assert len(list(home.glob(f"{newest.name}.damaged-*.sidecar"))) == n + 1
        fault(newest)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_run_whose_only_checkpoint_is_broken_says_so(
    tmp_path: Path, fault: Callable[[Path], Any]
) -> None:
    home = tmp_path / "checkpoints"
    manager(home).save(state(1), step(1))
    fault(home / "step-1_full.pth")
    with pytest.raises(UserError, match="no checkpoint there is intact"):
        latest_intact(tmp_path)


def kill_in_the_middle_of_removing(file: Path) -> None:
    sidecars.remove(file)


def test_a_file_whose_removal_was_cut_short_goes_at_the_next_save(tmp_path: Path) -> None:
    manager(tmp_path).save(state(1), step(1))
    manager(tmp_path).save(state(2), step(2))
    kill_in_the_middle_of_removing(tmp_path / "step-1_full.pth")
    manager(tmp_path).save(state(3), step(3))
    assert {p.name for p in tmp_path.glob("*.pth")} == {"step-2_full.pth", "step-3_full.pth"}


def test_a_file_whose_removal_was_cut_short_goes_at_the_end(tmp_path: Path) -> None:
    manager(tmp_path / "checkpoints").save(state(1), step(1))
    kill_in_the_middle_of_removing(tmp_path / "checkpoints" / "step-1_full.pth")
    manager(tmp_path / "checkpoints").finish()
    assert not (tmp_path / "checkpoints").exists()


def test_files_of_others_stay_whatever_they_are_called(tmp_path: Path) -> None:
    manager(tmp_path, Policy(save=True)).save(state(1), task_end(0, 10))
    others = ["notes.json", "resnet.pth", "vit.1.pth", "er_2_0.pt", "weights.pt.json", "step.pth"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "task9.1.pth").symlink_to("vit.1.pth")
    resumed = manager(tmp_path, Policy(save=True))
    resumed.save(state(2), task_end(1, 20))
    resumed.finish()
    assert all((tmp_path / name).read_text() == "mine" for name in [*others, "task9.1.pth"])


def test_files_that_lost_all_their_sidecars_are_not_removed_at_the_start(tmp_path: Path) -> None:
    """A copy of the folder without its JSON files still holds what somebody may need."""
    for n in (1, 2):
        manager(tmp_path).save(state(n), step(n))
    for sidecar in tmp_path.glob("*.json"):
        sidecar.unlink()
    manager(tmp_path)._open()
    assert len(list(tmp_path.glob("*.pth"))) == 2


# --- growth ---------------------------------------------------------------------------------------


def test_best_never_names_what_was_removed_by_hand(tmp_path: Path) -> None:
    kept = manager(tmp_path, Policy(save=True, top_k=3))
    for epoch in range(1, 4):
        kept.save(state(epoch), epoch_end(epoch))
    assert (tmp_path / "best_full.pth").readlink().name == "task0.1_full.pth"
    remove(tmp_path / "task0.1_full.pth")
    kept.save(state(4), epoch_end(4))
    assert (tmp_path / "best_full.pth").readlink().name == "task0.2_full.pth"


def test_a_save_reads_no_sidecar_of_the_saves_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = manager(tmp_path, Policy(save=True, top_k=3))
    kept.save(state(0), task_end(0, 1))
    n_read = 0
    real = sidecars.read

    def counted(path: Path) -> dict[str, Any]:
        nonlocal n_read
        n_read += 1
        return real(path)

    monkeypatch.setattr(sidecars, "read", counted)
    counts = []
    for task in range(1, 8):
        n_read = 0
        kept.save(state(task), task_end(task, task + 1))
        counts.append(n_read)
    assert max(counts) == counts[0] <= 4
