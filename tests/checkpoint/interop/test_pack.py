"""The four helpers: what goes in comes out, from our files and from Catalyst's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from others import (
    MammothMLP,
    catalyst_runner_checkpoint,
    catalyst_stage_checkpoint,
    mammoth_checkpoint,
    wrap,
)
from torch import nn

from perdure.backbones.mlp import MLP
from perdure.checkpoint.core import format as files
from perdure.checkpoint.interop.pack import (
    load_checkpoint,
    pack_checkpoint,
    save_checkpoint,
    unpack_checkpoint,
)
from perdure.errors import UserError
from perdure.models.ewc_online import EWCOnline


class Parts:
    """A small network, its optimizer and its scheduler, in training."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 9)

    def train(self, *steps: int) -> None:
        for step in steps:
            torch.manual_seed(step)
            self.optimizer.zero_grad()
            self.model(torch.randn(5, 3)).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()

    def unpack(self, checkpoint: dict[str, Any]) -> None:
        unpack_checkpoint(
            checkpoint, self.model, optimizer=self.optimizer, scheduler=self.scheduler
        )

    def like(self, other: Parts) -> bool:
        mine, theirs = self.model.state_dict(), other.model.state_dict()
        return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def pack(parts: Parts, **extra: Any) -> dict[str, Any]:
    return pack_checkpoint(
        parts.model, nn.CrossEntropyLoss(), parts.optimizer, parts.scheduler, **extra
    )


def stage(parts: Parts) -> dict[str, Any]:
    return catalyst_stage_checkpoint(parts.model, parts.optimizer, parts.scheduler)


def runner(parts: Parts) -> dict[str, Any]:
    return catalyst_runner_checkpoint(parts.model, parts.optimizer, parts.scheduler)


# --- there and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pack, stage, runner], ids=["ours", "catalyst-20", "catalyst-22"])
def test_training_continues_as_if_never_stopped(
    make: Callable[[Parts], dict[str, Any]], tmp_path: Path
) -> None:
    one, two = Parts(0), Parts(1)
    one.train(1, 2, 3)
    torch.save(make(one), tmp_path / "a.pth")
    two.unpack(load_checkpoint(tmp_path / "a.pth"))
    one.train(4, 5)
    two.train(4, 5)
    assert two.like(one)
    assert two.scheduler.state_dict() == one.scheduler.state_dict()


def test_a_saved_file_is_plain_and_holds_what_was_packed(tmp_path: Path) -> None:
    parts = Parts(0)
    save_checkpoint(pack(parts, epoch=3, path=tmp_path), tmp_path / "new" / "last.pth")
    content = torch.load(tmp_path / "new" / "last.pth", weights_only=True)
    assert set(content) == {
        "epoch",
        "path",
        "model_state_dict",
        "criterion_state_dict",
        "optimizer_state_dict",
        "scheduler_state_dict",
    }
    assert content["epoch"] == 3
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["last.pth"]


def test_several_of_a_kind_have_their_keys(tmp_path: Path) -> None:
    one, two = Parts(0), Parts(1)
    one.train(1, 2)
    models = {"first": one.model, "second": two.model}
    optimizers = {"first": one.optimizer, "none": None}
    save_checkpoint(pack_checkpoint(models, optimizer=optimizers), tmp_path / "a.pth")
    checkpoint = load_checkpoint(tmp_path / "a.pth")
    assert set(checkpoint) == {
        "model_first_state_dict",
        "model_second_state_dict",
        "optimizer_first_state_dict",
    }
    three = Parts(3)
    unpack_checkpoint(
        checkpoint,
        {"first": three.model, "third": nn.Linear(2, 2)},
        optimizer={"first": three.optimizer},
    )
    assert three.like(one)
    one.train(3)
    three.train(3)
    assert three.like(one)
    assert three.scheduler.last_epoch == 1, "it was not asked for"


def test_a_function_as_criterion_has_no_state() -> None:
    assert pack_checkpoint(criterion=F.cross_entropy) == {}


# --- wrappers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "around",
    [
        pytest.param(nn.DataParallel, id="data-parallel"),
        pytest.param(lambda m: wrap(m, "_orig_mod"), id="compiled"),
        pytest.param(lambda m: nn.DataParallel(wrap(m, "_orig_mod")), id="both"),
    ],
)
def test_wrappers_leave_no_prefix_and_need_none(around: Callable[[nn.Module], nn.Module]) -> None:
    one, two, three = Parts(0), Parts(1), Parts(2)
    packed = pack_checkpoint(around(one.model))
    assert packed["model_state_dict"].keys() == one.model.state_dict().keys()
    unpack_checkpoint(packed, around(two.model))
    assert two.like(one)
    unpack_checkpoint({"model_state_dict": around(one.model).state_dict()}, three.model)
    assert three.like(one)


def test_prefixes_of_a_users_own_wrapper_do_not_matter() -> None:
    one, two = Parts(0), Parts(1)
    unpack_checkpoint(pack_checkpoint(wrap(one.model, "net")), wrap(two.model, "module", "model"))
    assert two.like(one)


# --- parts ------------------------------------------------------------------------------------


def test_only_what_both_have_is_loaded() -> None:
    one, two = Parts(0), Parts(1)
    one.train(1)
    before = two.optimizer.state_dict()
    unpack_checkpoint(
        {"model_state_dict": one.model.state_dict(), "scheduler_state_dict": None},
        two.model,
        optimizer=two.optimizer,
        scheduler=two.scheduler,
    )
    assert two.like(one)
    assert two.optimizer.state_dict() == before


def test_nothing_in_common_is_an_error() -> None:
    parts = Parts(0)
    with pytest.raises(UserError, match="holds epoch, the call names model, optimizer: they"):
        unpack_checkpoint({"epoch": 3}, parts.model, optimizer=parts.optimizer)
    with pytest.raises(UserError, match="holds nothing, the call names nothing"):
        unpack_checkpoint({})


@pytest.mark.parametrize(
    ("checkpoint", "part"),
    [
        pytest.param({"model_state_dict": {"0.weight": torch.ones(1)}}, "model", id="model"),
        pytest.param({"optimizer_state_dict": {"param_groups": []}}, "optimizer", id="optimizer"),
    ],
)
def test_a_state_that_does_not_fit_is_named(checkpoint: dict[str, Any], part: str) -> None:
    parts = Parts(0)
    with pytest.raises(UserError, match=f"the checkpoint's {part} does not fit: .+"):
        parts.unpack(checkpoint)


def test_a_bare_state_is_a_model() -> None:
    one, two = Parts(0), Parts(1)
    unpack_checkpoint(one.model.state_dict(), two.model, optimizer=two.optimizer)
    assert two.like(one)


def mlp(seed: int) -> MLP:
    torch.manual_seed(seed)
    return MLP((1, 28, 28), 10)


def test_a_full_file_of_a_run_fills_a_method_or_its_network(tmp_path: Path) -> None:
    method = EWCOnline(mlp(0), 1.0, 0.9)
    method.fisher.uniform_()
    optimizer = torch.optim.Adam(method.trainable(), 0.125)
    state = {"model": method.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": None}
    files.write(tmp_path / "a.pt", {**state, "position": {"task": 1}}, {})
    checkpoint = load_checkpoint(tmp_path / "a.pt")

    other = EWCOnline(mlp(1), 1.0, 0.9)
    fresh = torch.optim.Adam(other.trainable(), 0.5)
    unpack_checkpoint(checkpoint, other, optimizer=fresh, scheduler=Parts(0).scheduler)
    assert torch.equal(other.fisher, method.fisher)
    assert fresh.param_groups[0]["lr"] == 0.125

    network = mlp(1)
    unpack_checkpoint(checkpoint, nn.DataParallel(network))
    assert torch.equal(network.head.weight, method.backbone.head.weight)


def test_a_mammoth_file_fills_our_network() -> None:
    other, network = MammothMLP(), mlp(0)
    unpack_checkpoint(mammoth_checkpoint(other), network)
    assert torch.equal(network.layers[1].weight, other.fc2.weight)


# --- files ------------------------------------------------------------------------------------


def test_an_interrupted_save_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "last.pth"
    save_checkpoint({"model_state_dict": {"w": torch.ones(1)}}, path)
    with monkeypatch.context() as disk:
        disk.setattr("perdure.io.atomic.os.replace", full)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint({"model_state_dict": {"w": torch.zeros(1)}}, path)
    assert load_checkpoint(str(path))["model_state_dict"]["w"] == 1
    assert list(tmp_path.iterdir()) == [path]
    save_checkpoint({"model_state_dict": {"w": torch.zeros(1)}}, path)
    assert load_checkpoint(path)["model_state_dict"]["w"] == 0


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"checkpoint\['model'\] is a Linear"):
        save_checkpoint({"model": nn.Linear(1, 1)}, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_runs_own_file_is_never_overwritten(tmp_path: Path) -> None:
    files.write(tmp_path / "a.pt", {"x": 1}, {})
    with pytest.raises(UserError, match="choose another name"):
        save_checkpoint({"x": 2}, tmp_path / "a.pt")
    assert files.read(tmp_path / "a.pt")["x"] == 1


def test_code_is_not_run_on_loading(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model_state_dict": Hostile()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="nothing in it was run"):
        load_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()
