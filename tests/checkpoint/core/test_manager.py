"""Names of checkpoints, and which of them stay."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.checkpoint.core import manager as managing
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries, newest
from perdure.checkpoint.core.manager import CheckpointManager, Policy, stem
from perdure.errors import UserError
from perdure.training.state import Position, SaveContext

STEM = stem("my-", "er", "seq-mnist", 500, 1, "20261122-045600")
SAVE = Policy(save=True)
MONITOR = "average_accuracy.class_il"


def manager(folder: Path, policy: Policy = SAVE) -> CheckpointManager:
    return CheckpointManager(folder, STEM, policy, Cadence(), {"overrides": ["seed=1"]})


def state(number: float = 0.0) -> dict[str, Any]:
    return {"model": {"backbone.w": torch.tensor([number]), "fisher": torch.zeros(1)}}


def step(n: int) -> SaveContext:
    return SaveContext(Position(0, 0, n, n), "task0", 0)


def task_end(task: int, n: int, value: float = 0.5, epoch: int = 1) -> SaveContext:
    return SaveContext(Position(task + 1, 0, 0, n), f"task{task}", epoch, task, {MONITOR: value})


def epoch_end(epoch: int, value: float, task: int = 0) -> SaveContext:
    at = Position(task, epoch, 0, 100 * task + epoch)
    return SaveContext(at, f"task{task}", epoch, None, {MONITOR: value}, "validation")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".json" and not p.is_symlink())


def test_a_task_leaves_its_file_its_epoch_and_the_links(tmp_path: Path) -> None:
    kept = manager(tmp_path)
    for task in range(2):
        kept.save(state(task), task_end(task, 10 * task + 10))
    kept.finish()
    assert names(tmp_path) == [
        "my-er_seq-mnist_500_1_20261122-045600_0.pt",
        "my-er_seq-mnist_500_1_20261122-045600_1.pt",
        "task0.1.pth", "task0.1_full.pth", "task1.1.pth", "task1.1_full.pth",
    ]  # fmt: skip
    links = {p.name: os.readlink(p) for p in tmp_path.iterdir() if p.is_symlink()}
    assert links == {
        "best.pth": "task1.1.pth", "best_full.pth": "task1.1_full.pth",
        "last.pth": "task1.1.pth", "last_full.pth": "task1.1_full.pth",
    }  # fmt: skip
    assert read(tmp_path / f"{STEM}_1.pt")["overrides"] == ["seed=1"]
    # The epoch's full sibling is the same bytes on disk, not a second copy.
    assert os.path.samefile(tmp_path / "task1.1_full.pth", tmp_path / f"{STEM}_1.pt")


def test_a_weights_only_checkpoint_is_the_network_alone(tmp_path: Path) -> None:
    manager(tmp_path).save(state(3.0), task_end(0, 10))
    weights = torch.load(tmp_path / "best.pth", weights_only=True)
    assert list(weights) == ["model_state_dict"]
    assert list(weights["model_state_dict"]) == ["w"]
    assert torch.equal(weights["model_state_dict"]["w"], torch.tensor([3.0]))


def test_without_weights_only_checkpoints(tmp_path: Path) -> None:
    manager(tmp_path, Policy(save=True, weights_only=False)).save(state(), task_end(0, 10))
    assert names(tmp_path) == [f"{STEM}_0.pt", "task0.1_full.pth"]
    assert not (tmp_path / "best.pth").exists()
    assert (tmp_path / "best_full.pth").exists()


def test_the_file_of_a_joint_run_is_called_joint(tmp_path: Path) -> None:
    manager(tmp_path, Policy(save=True, top_k=0)).save(
        state(), SaveContext(Position(1, 0, 0, 10), "joint", 1, 0, {MONITOR: 0.5})
    )
    assert names(tmp_path) == [f"{STEM}_joint.pt"]


def kept_epochs(folder: Path, values: list[float], **policy: Any) -> tuple[set[int], int, int]:
    """Epochs whose files stay, the best and the last."""
    kept = manager(folder, Policy(save=True, **policy))
    for epoch, value in enumerate(values, 1):
        kept.save(state(epoch), epoch_end(epoch, value))
    full = {e.epoch for e in entries(folder) if e.kind == "epoch"}
    assert {e.epoch for e in entries(folder) if e.kind == "weights-only"} == full
    best, last = (
        int(float(torch.load(folder / name, weights_only=True)["model_state_dict"]["w"]))
        for name in ("best.pth", "last.pth")
    )
    return full, best, last


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "policy", "expected"),
    [
        pytest.param([3, 1, 2, 1, 5], {"top_k": 2}, ({1, 5}, 5, 5), id="max"),
        pytest.param([3, 1, 2, 1, 5], {"top_k": 2, "maximize": False}, ({2, 4, 5}, 2, 5), id="min"),
        pytest.param([1, 1, 1, 1], {"top_k": 2}, ({1, 2, 4}, 1, 4), id="ties-keep-the-earlier"),
        pytest.param([NAN, 1, NAN], {"top_k": 1}, ({2, 3}, 2, 3), id="nan-ranks-last"),
        pytest.param([NAN, NAN], {"top_k": 1}, ({1, 2}, 1, 2), id="all-nan"),
        pytest.param([0.5], {"top_k": 3}, ({1}, 1, 1), id="fewer-than-k"),
        pytest.param(
            [1, 0.9, 5, 5, 5, 5, 5, 5, 5, 0.5, 0.4],
            {"top_k": 3, "maximize": False},
            ({2, 10, 11}, 11, 11),
            id="ten-is-not-one",
        ),
    ],
)
def test_the_best_epochs_stay(
    tmp_path: Path, values: list[float], policy: dict[str, Any], expected: Any
) -> None:
    assert kept_epochs(tmp_path, values, **policy) == expected


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(1, 3), st.integers(1, 5))
def test_the_top_k_survives_a_restart(values: list[float], k: int, cut: int) -> None:
    """Two managers, one after the other, keep what one would."""
    import tempfile

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = kept_epochs(Path(one), values, top_k=k)
        for n, part in enumerate((values[:cut], values[cut:])):
            again = manager(Path(two), Policy(save=True, top_k=k))
            for epoch, value in enumerate(part, 1 + n * len(values[:cut])):
                again.save(state(epoch), epoch_end(epoch, value))
        assert {e.epoch for e in entries(Path(two)) if e.kind == "epoch"} == whole[0]


def test_best_compares_within_the_task(tmp_path: Path) -> None:
    kept = manager(tmp_path)
    kept.save(state(1), epoch_end(1, 0.99, task=0))
    kept.save(state(2), epoch_end(1, 0.40, task=1))
    assert os.readlink(tmp_path / "best_full.pth") == "task1.1_full.pth"
    assert (tmp_path / "task0.1_full.pth").exists()


def test_best_is_of_the_newest_task_that_has_one(tmp_path: Path) -> None:
    """Across restarts too; averages over one task and over two do not compare."""
    manager(tmp_path).save(state(1), epoch_end(1, 0.99, task=0))
    manager(tmp_path).save(state(2), step(101))
    assert os.readlink(tmp_path / "best.pth") == "task0.1.pth"
    for epoch, value in enumerate((0.40, 0.60, 0.50), 1):
        manager(tmp_path).save(state(epoch), epoch_end(epoch, value, task=1))
    assert os.readlink(tmp_path / "best.pth") == "task1.2.pth"
    assert os.readlink(tmp_path / "last.pth") == "task1.3.pth"
    assert (tmp_path / "task0.1_full.pth").exists()


def test_the_sidecar_names_the_split_that_was_selected_on(tmp_path: Path) -> None:
    import json

    manager(tmp_path).save(state(), epoch_end(1, 0.5))
    about = json.loads((tmp_path / "task0.1_full.pth.json").read_text())
    assert (about["monitor"], about["value"], about["selected_on"]) == (MONITOR, 0.5, "validation")


def test_the_newest_two_rolling_files_stay_until_a_good_end(tmp_path: Path) -> None:
    kept = manager(tmp_path / "checkpoints", Policy())
    for n in (10, 20, 30):
        kept.save(state(n), step(n))
    kept.save(state(40), task_end(0, 40))
    assert names(tmp_path / "checkpoints") == ["step-30_full.pth", "step-40_full.pth"]
    kept.finish()
    assert not (tmp_path / "checkpoints").exists()


def test_a_restart_knows_the_rolling_files(tmp_path: Path) -> None:
    for n in (10, 20, 30):
        manager(tmp_path, Policy()).save(state(n), step(n))
    assert names(tmp_path) == ["step-20_full.pth", "step-30_full.pth"]


def test_keep_bounds_the_task_files(tmp_path: Path) -> None:
    kept = manager(tmp_path, Policy(save=True, top_k=0, keep=2))
    for task in range(4):
        kept.save(state(), task_end(task, 10 * task + 10))
    assert names(tmp_path) == [f"{STEM}_2.pt", f"{STEM}_3.pt"]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_newest_good_full_file_is_never_removed(chance: random.Random) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(save=chance.random() < 0.5, top_k=chance.randint(0, 2), keep=1)
        kept = manager(Path(folder), policy)
        for at in range(1, 9):
            kind = chance.choice([step(at), task_end(at, at, chance.random())])
            kept.save(state(at), kind)
            last = newest(Path(folder))
            assert last is not None
            assert last.order[0] == at
            assert float(read(last.path)["model"]["backbone.w"]) == at


# --- large states are written behind -------------------------------------------------------------


def test_a_large_state_is_staged_and_written_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "_AT_ONCE", 0)
    kept = manager(tmp_path, Policy())
    weights = torch.zeros(1000)
    for n in (1, 2, 3):
        weights.fill_(n)
        kept.save({"model": {"backbone.w": weights}}, step(n))
        weights.fill_(-1)  # training continues at once
    kept.wait()
    assert [w.global_step for w in kept.take_saved()] == [1, 2, 3]
    for n in (2, 3):
        saved = read(tmp_path / f"step-{n}_full.pth")["model"]["backbone.w"]
        assert torch.equal(saved, torch.full((1000,), float(n)))


def test_an_error_in_the_background_surfaces_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managing, "_AT_ONCE", 0)
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    kept = manager(tmp_path / "checkpoints", Policy())
    kept.save(state(), step(1))
    assert kept._writer._thread is not None
    kept._writer._thread.join()
    with pytest.raises(UserError, match="cannot write a checkpoint"):
        kept.step_due(Position(0, 0, 1, 2))


def test_a_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="cannot write a checkpoint"):
        manager(tmp_path / "checkpoints").save(state(), step(1))


def test_a_task_without_a_step_leaves_the_rolling_file_before_it(tmp_path: Path) -> None:
    """Also in a process that was started anew; a step later there is a file of its own again."""
    kept = manager(tmp_path, Policy(save=False))
    kept.save(state(1), task_end(0, 0))
    kept.save(state(2), task_end(1, 0))
    kept.wait()
    assert [saved.task for saved in kept.take_saved()] == [0]
    again = manager(tmp_path, Policy(save=False))
    again.save(state(3), task_end(2, 0))
    assert names(tmp_path) == ["step-0_full.pth"]
    again.save(state(4), task_end(3, 7))
    again.wait()
    assert names(tmp_path) == ["step-0_full.pth", "step-7_full.pth"]
    assert float(read(tmp_path / "step-0_full.pth")["model"]["backbone.w"]) == 1.0
    with pytest.raises(UserError, match=r"step-7_full\.pth exists already"):
        again.save(state(5), task_end(3, 7))
