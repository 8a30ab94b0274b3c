"""A run's full files as Catalyst's `unpack_checkpoint` opens them, at no byte more of tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import assert_same
from torch import nn

import perdure
from perdure.backbones.mlp import MLP
from perdure.checkpoint.core.aliases import with_aliases, without_aliases
from perdure.checkpoint.core.format import read
from perdure.checkpoint.interop.foreign import open_file
from perdure.checkpoint.interop.pack import load_checkpoint, unpack_checkpoint
from perdure.models.lwf import LwF

NAMES = {
    "model_state_dict",
    "criterion_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run whose method, optimizer and scheduler have a state of their own."""
    run = tmp_path_factory.mktemp("catalyst") / "run"
    perdure.train(
        "model=lwf", "optimizer.momentum=0.9", "scheduler=cosine", "training.scheduler_per=step",
        "dataset.iterations=20", "dataset.stop_after=2", "tracking.console=off",
        "training.evaluate_every=1", "checkpoint.save=true", folder=run,
    )  # fmt: skip
    return run / "checkpoints"


def full_files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.name.endswith(("_full.pth", ".pt"))]
    assert len(files) >= 6, "the task files, the epochs, and the links to them"
    return files


def network() -> MLP:
    torch.manual_seed(3)
    return MLP((1, 28, 28), 10)


# --- what Catalyst does -----------------------------------------------------------------------


@pytest.mark.process
def test_the_steps_of_catalysts_unpack_checkpoint(folder: Path) -> None:
    """Its key is `<part>_state_dict`, and it calls `load_state_dict` of each part with that."""
    for path in full_files(folder):
        checkpoint = torch.load(path, weights_only=True)
        model, criterion = network(), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
        parts: dict[str, Any] = {
            "model": model,
            "criterion": criterion,
            "optimizer": optimizer,
            "scheduler": scheduler,
        }
        for name, part in parts.items():
            part.load_state_dict(checkpoint[f"{name}_state_dict"])
        for name, value in model.state_dict().items():
            assert torch.equal(value, checkpoint["model"][f"backbone.{name}"])
        assert any(v["momentum_buffer"].any() for v in optimizer.state_dict()["state"].values())
        assert scheduler.last_epoch == checkpoint["scheduler"]["last_epoch"] > 0
        assert {"model", "optimizer", "scheduler", "args", "results"} <= checkpoint.keys()


def test_the_names_are_those_of_the_weights_only_file(folder: Path) -> None:
    alone = torch.load(folder / "best.pth", weights_only=True)
    whole = torch.load(folder / "best_full.pth", weights_only=True)
    assert_same(alone["model_state_dict"], whole["model_state_dict"])
    assert not any(name.startswith("old.") for name in whole["model_state_dict"])


def test_no_tensor_is_written_twice(folder: Path, tmp_path: Path) -> None:
    path = folder / "last_full.pth"
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in content.items() if k not in NAMES}, tmp_path / "without.pth")
    sizes = []
    for file in (path, tmp_path / "without.pth"):
        with zipfile.ZipFile(file) as archive:
            parts = [e for e in archive.infolist() if e.filename.split("/")[1] == "data"]
        sizes.append(sorted(entry.file_size for entry in parts))
    assert sizes[0] == sizes[1]
    assert sum(sizes[0]) > 700_000, "the network, its teacher and the momentum"
    assert 0 < path.stat().st_size - (tmp_path / "without.pth").stat().st_size < 2_000


# --- what our own readers do ------------------------------------------------------------------


def test_our_readers_drop_them_before_they_count_anything(folder: Path) -> None:
    for path in full_files(folder):
        size = path.stat().st_size
        assert not NAMES & read(path.resolve(), limit=size).keys()
        opened = open_file(path, limit=size)
        assert opened.kind == "perdure"
        assert not NAMES & opened.content.keys()
        assert opened.networks == {}


def test_a_moved_file_without_its_sidecar_is_ours_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes((folder / "best_full.pth").read_bytes())
    assert open_file(tmp_path / "a.pth").kind == "perdure"


def test_the_helpers_give_both_names(folder: Path) -> None:
    checkpoint = load_checkpoint(folder / "best_full.pth")
    assert checkpoint.keys() >= NAMES
    model, method = network(), LwF(network(), 1.0, 2.0)
    unpack_checkpoint(checkpoint, model)
    unpack_checkpoint(checkpoint, method)
    assert_same(dict(model.state_dict()), checkpoint["model_state_dict"])
    assert_same(dict(method.state_dict()), checkpoint["model"])


# --- for any state ----------------------------------------------------------------------------


parts = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(), max_size=2)
states = st.fixed_dictionaries(
    {
        "model": st.dictionaries(st.sampled_from(["backbone.w", "backbone.x", "old.w"]), parts),
        "optimizer": parts,
        "scheduler": st.none() | parts,
        "format": st.integers(1, 3),
        "position": parts,
    }
)


@given(states)
def test_they_come_and_go_without_a_trace(state: dict[str, Any]) -> None:
    named = with_aliases(state)
    assert without_aliases(named) == state
    assert named["optimizer_state_dict"] is state["optimizer"]
    assert ("scheduler_state_dict" in named) == (state["scheduler"] is not None)
    assert without_aliases(state) == state, "a file from before"


@given(states, st.sampled_from(["format", "model", "position"]))
def test_another_programs_file_keeps_them(state: dict[str, Any], missing: str) -> None:
    foreign = with_aliases(state)
    del foreign[missing]
    assert without_aliases(foreign) is foreign
