"""Files of every origin are recognized, and their weights lose the prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from others import (
    MammothMLP,
    OtherResNet,
    catalyst_runner_checkpoint,
    catalyst_stage_checkpoint,
    mammoth_checkpoint,
    wrap,
)
from torch import nn

from perdure.backbones.mlp import MLP
from perdure.checkpoint.core import format as files
from perdure.checkpoint.interop.foreign import open_file, shorten
from perdure.errors import UserError
from perdure.io import atomic
from perdure.models.lwf import LwF

WRAPPERS = ("module", "_orig_mod", "net", "backbone", "model", "_fsdp_wrapped_module", "wrappee")


def small() -> MLP:
    torch.manual_seed(5)
    return MLP((1, 4, 4), 3, (6,))


def trained(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.Adam(model.parameters())
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)


def full_state(model: nn.Module) -> dict[str, Any]:
    return {"model": model.state_dict(), "position": {"task": 1}, "args": {"seed": 3}}


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- recognizing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(
            lambda m: {"model_state_dict": m.state_dict()}, "weights-only", id="weights-only"
        ),
        pytest.param(
            lambda m: {"epoch": 3, "model_state_dict": m.state_dict(), "loss": 0.1},
            "weights-only",
            id="the-tutorials-way",
        ),
        pytest.param(mammoth_checkpoint, "mammoth", id="mammoth"),
        pytest.param(
            lambda m: catalyst_stage_checkpoint(m, *trained(m)), "catalyst", id="catalyst-full"
        ),
        pytest.param(
            lambda m: catalyst_stage_checkpoint(m, *trained(m), full=False),
            "catalyst",
            id="catalyst-weights",
        ),
        pytest.param(
            lambda m: catalyst_runner_checkpoint(m, *trained(m)), "catalyst", id="catalyst-runner"
        ),
        pytest.param(lambda m: m.state_dict(), "plain", id="catalyst-model-or-plain"),
        pytest.param(lambda m: {"state_dict": m.state_dict(), "acc": 9}, "plain", id="state_dict"),
        pytest.param(lambda m: {"model": m.state_dict()}, "plain", id="model"),
        pytest.param(lambda m: wrap(m, "module", "net").state_dict(), "plain", id="wrapped"),
    ],
)
def test_what_a_file_is(make: Callable[[nn.Module], Any], kind: str, tmp_path: Path) -> None:
    model = small()
    opened = open_file(save(tmp_path / "a.pt", make(model)))
    assert opened.kind == kind
    assert same(opened.weights, dict(model.state_dict()))
    assert opened.metadata == {}


def test_a_mammoth_file_shows_what_it_holds(tmp_path: Path) -> None:
    rows = {"examples": torch.rand(5, 1, 28, 28), "labels": torch.arange(5)}
    content = mammoth_checkpoint(MammothMLP(), rows, lr=0.03)
    opened = open_file(save(tmp_path / "a.pt", content))
    assert opened.args["lr"] == 0.03
    assert opened.results == content["results"]
    assert same(opened.buffer, rows)
    assert {"fc1.weight", "fc2.bias", "classifier.weight", "_features.2.bias"} <= set(
        opened.weights
    )


def test_several_networks_keep_their_names(tmp_path: Path) -> None:
    model = small()
    states = {f"model_{key}_state_dict": model.state_dict() for key in ("first", "second")}
    opened = open_file(save(tmp_path / "a.pt", states))
    assert opened.kind == "catalyst"
    assert set(opened.weights) == {
        f"{key}.{name}" for key in ("first", "second") for name in model.state_dict()
    }


def test_a_full_file_of_a_run_is_verified(tmp_path: Path) -> None:
    model = LwF(small(), 1.0, 2.0)
    files.write(tmp_path / "a.pt", full_state(model), {"stage": "task0"})
    opened = open_file(tmp_path / "a.pt")
    assert opened.kind == "perdure"
    assert opened.metadata["stage"] == "task0"
    assert opened.args == {"seed": 3}
    assert torch.equal(opened.weights["layers.0.weight"], model.backbone.layers[0].weight)
    assert torch.equal(opened.weights["old.layers.0.weight"], model.old.layers[0].weight)


def test_a_link_is_verified_by_the_sidecar_of_its_file(tmp_path: Path) -> None:
    files.write(tmp_path / "task0.1.pth", {"model_state_dict": small().state_dict()}, {})
    atomic.update_link(tmp_path / "best.pth", tmp_path / "task0.1.pth")
    opened = open_file(tmp_path / "best.pth")
    assert opened.metadata
    assert opened.path.name == "task0.1.pth"
    data = bytearray((tmp_path / "task0.1.pth").read_bytes())
    data[-1] ^= 1
    (tmp_path / "task0.1.pth").write_bytes(data)
    with pytest.raises(files.DamagedError, match="SHA-256"):
        open_file(tmp_path / "best.pth")


def test_a_full_file_that_left_its_sidecar_behind_is_known(tmp_path: Path) -> None:
    files.write(tmp_path / "a.pt", full_state(small()), {})
    moved = (tmp_path / "a.pt").rename(tmp_path / "b.pt")
    opened = open_file(moved)
    assert opened.kind == "perdure"
    assert opened.metadata == {}


def test_a_newer_format_is_refused_without_a_sidecar_too(tmp_path: Path) -> None:
    content = {**full_state(small()), "format": files.FORMAT + 1}
    with pytest.raises(UserError, match="newer"):
        open_file(save(tmp_path / "a.pt", content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param({"epoch": 3}, "holds epoch, where no network", id="no-weights"),
        pytest.param({}, "holds nothing", id="empty"),
        pytest.param([torch.zeros(1)], "holds a list", id="list"),
        pytest.param(torch.zeros(1), "holds a Tensor", id="tensor"),
        pytest.param({"model": {}}, "holds model", id="empty-model"),
        pytest.param({3: torch.zeros(1)}, "holds 3", id="no-names"),
    ],
)
def test_what_holds_no_weights_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        open_file(save(tmp_path / "a.pt", content))


def test_tensors_that_cannot_be_copied_are_no_weights(tmp_path: Path) -> None:
    odd = {"s": torch.eye(2).to_sparse(), "m": torch.zeros(2, device="meta"), "w": torch.ones(2)}
    assert set(open_file(save(tmp_path / "a.pt", odd)).weights) == {"w"}


# --- prefixes ---------------------------------------------------------------------------------


prefixes = st.lists(st.sampled_from(WRAPPERS), max_size=6).map(lambda names: "".join(
    f"{name}." for name in names
))  # fmt: skip
NAMES = {
    "mlp": list(small().state_dict()),
    "resnet": list(OtherResNet().state_dict()),
    "mammoth": list(MammothMLP().state_dict()),
    "sequential": ["0.weight", "0.bias", "module_list.0.weight", "networks.net.weight"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@settings(deadline=None)
@given(prefix=prefixes)
def test_prefixes_go_however_many_there_are(names: list[str], prefix: str) -> None:
    wrapped = [prefix + name for name in names]
    short = shorten(wrapped)
    assert list(short) == wrapped
    assert list(short.values()) == list(shorten(names).values())


@pytest.mark.parametrize(
    "name",
    ["layer1.module.weight", "fc.net.bias", "modules.weight", "networks.0", "module", "model."],
)
def test_other_names_stay(name: str) -> None:
    assert shorten([name]) == {name: name}


def test_prefixes_that_not_all_names_have_go_too() -> None:
    assert list(shorten(["net.module.fc.bias", "fisher"]).values()) == ["fc.bias", "fisher"]


def test_two_names_never_become_one() -> None:
    names = ["module.net.a", "module.a", "module.b"]
    assert list(shorten(names).values()) == ["net.a", "a", "b"]
    assert list(shorten(["model.a", "module.a", "net.b"]).values()) == ["model.a", "module.a", "b"]
