"""Weights of other projects' networks into ours: the same outputs, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from others import MammothMLP, OtherResNet, mammoth_checkpoint, wrap
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ResNet18
from perdure.checkpoint.interop.foreign import open_file
from perdure.checkpoint.interop.weights import Report, fill
from perdure.errors import UserError
from perdure.models.ewc_online import EWCOnline

FISHER = {"fisher": torch.ones(3)}
WRAPPERS = ("module", "_orig_mod", "net", "backbone", "model", "network")


def mlp(n_classes: int = 10, hidden: tuple[int, ...] = (100, 100), seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP((1, 28, 28), n_classes, hidden)


def resnet(n_classes: int = 10) -> ResNet18:
    torch.manual_seed(0)
    return ResNet18((3, 8, 8), n_classes, width=4)


def used(model: nn.Module, x: Tensor) -> nn.Module:
    """`model` as after some training: no tensor has its initial value."""
    torch.manual_seed(9)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.train()
    for _ in range(3):
        model(x)
    return model.eval()


def images(*shape: int) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))


# --- the same network under other names -------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "shape"),
    [
        pytest.param(MammothMLP, mlp, (1, 28, 28), id="mammoth-mlp"),
        pytest.param(OtherResNet, resnet, (3, 8, 8), id="mammoth-resnet18"),
        pytest.param(
            lambda: OtherResNet("downsample", "fc"), resnet, (3, 8, 8), id="torchvision-resnet18"
        ),
        pytest.param(
            lambda: OtherResNet("shortcut", "linear"), resnet, (3, 8, 8), id="older-resnet18"
        ),
    ],
)
@pytest.mark.parametrize("mammoth", [False, True], ids=["bare", "mammoth-file"])
def test_another_projects_network_gives_the_same_outputs(
    theirs: Callable[[], nn.Module],
    ours: Callable[[], Backbone],
    shape: tuple[int, ...],
    mammoth: bool,
    tmp_path: Path,
) -> None:
    x = images(*shape)
    other, backbone = used(theirs(), x), ours()
    torch.save(mammoth_checkpoint(other) if mammoth else other.state_dict(), tmp_path / "a.pt")
    report = fill(backbone, open_file(tmp_path / "a.pt").weights)
    assert torch.equal(backbone.eval()(x), other(x))
    assert report.missing == ()
    assert set(report.filled) == set(backbone.state_dict())
    assert set(report.skipped.values()) <= {"the same as another, under a second name"}


def test_a_plain_mlp_with_numbered_layers() -> None:
    other = nn.ModuleDict({f"fc{i + 1}": layer for i, layer in enumerate([*mlp(seed=4).layers])})
    other["fc3"] = nn.Linear(100, 10)
    backbone = mlp()
    assert fill(backbone, other.state_dict()).filled["head.weight"] == "fc3.weight"
    assert torch.equal(backbone.head.weight, other["fc3"].weight)


def test_our_own_names_come_before_others() -> None:
    weights = {**mlp(seed=4).state_dict(), "fc1.weight": torch.zeros(100, 784)}
    backbone = mlp()
    fill(backbone, weights)
    assert torch.equal(backbone.layers[0].weight, weights["layers.0.weight"])


@pytest.mark.parametrize("make", [mlp, resnet], ids=["mlp", "resnet"])
@settings(max_examples=20, deadline=None)
@given(outside=st.lists(st.sampled_from(WRAPPERS), max_size=4), data=st.data())
def test_wrappers_never_matter_in_either_direction(
    make: Callable[[], Backbone], outside: list[str], data: st.DataObject
) -> None:
    source, target = make(), make()
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 9)
    inside = data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=4))
    wrapped: Any = wrap(target, *inside)
    report = fill(wrapped, wrap(source, *outside).state_dict())
    assert set(report.filled) == set(wrapped.state_dict())
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)


@pytest.mark.parametrize("around", [[], ["module"]], ids=["bare", "wrapped"])
def test_what_belongs_to_the_method_is_left_out(around: list[str]) -> None:
    method = EWCOnline(mlp(seed=4), 1.0, 0.9)
    backbone = mlp()
    report = fill(backbone, wrap(method, *around).state_dict())
    assert {name.rpartition(".")[2] for name in report.skipped} == {"fisher", "anchor"}
    assert torch.equal(backbone.head.weight, method.backbone.head.weight)


def test_other_floating_types_are_converted() -> None:
    backbone = mlp()
    fill(backbone, {name: tensor.half() for name, tensor in mlp(seed=4).state_dict().items()})
    assert backbone.head.weight.dtype == torch.float32
    assert torch.equal(backbone.head.weight, mlp(seed=4).head.weight.half().float())


# --- what does not fit ------------------------------------------------------------------------


def unchanged(backbone: Backbone) -> bool:
    """Whether it is as `mlp()` or `resnet()` made it."""
    make = mlp if isinstance(backbone, MLP) else resnet
    before = make(backbone.n_classes).state_dict()
    return all(torch.equal(before[name], v) for name, v in backbone.state_dict().items())


def without(weights: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: v for name, v in weights.items() if not any(part in name for part in parts)}


def test_another_class_count_is_an_error() -> None:
    backbone = mlp(10)
    with pytest.raises(UserError, match=r"head\.weight is for 7 classes, this run has 10; check"):
        fill(backbone, mlp(7, seed=4).state_dict(), allow_missing=True)
    assert unchanged(backbone)


@pytest.mark.parametrize("n_classes", [7, 10], ids=["other-count", "same-count"])
def test_a_new_head_stays_as_it_was(n_classes: int) -> None:
    backbone, source = mlp(10), mlp(n_classes, seed=4)
    report = fill(backbone, source.state_dict(), new_head=True)
    assert torch.equal(backbone.head.weight, mlp(10).head.weight)
    assert torch.equal(backbone.layers[1].weight, source.layers[1].weight)
    assert report.missing == ("head.weight", "head.bias")
    assert report.skipped == dict.fromkeys(
        report.missing, "checkpoint.new_head keeps a new last layer"
    )


def test_a_network_without_a_classifier_needs_a_new_head() -> None:
    weights = without(mlp(seed=4).state_dict(), "head")
    backbone = mlp()
    with pytest.raises(UserError, match=r"does not fill head\.weight, head\.bias; checkpoint\.new"):
        fill(backbone, weights)
    assert unchanged(backbone)
    assert fill(backbone, weights, new_head=True).missing == ("head.weight", "head.bias")
    assert fill(backbone, weights, allow_missing=True).missing == ("head.weight", "head.bias")


def test_missing_tensors_are_an_error_unless_allowed() -> None:
    weights = without(resnet().state_dict(), "blocks.3.bn1", "conv1")
    backbone = resnet()
    with pytest.raises(UserError, match=r"does not fill conv1\.weight, .* and \d+ more; .*allow_m"):
        fill(backbone, weights)
    report = fill(backbone, weights, allow_missing=True)
    assert set(report.missing) == set(backbone.state_dict()) - set(weights)


def test_a_stem_of_another_size_is_reported() -> None:
    weights = {**resnet().state_dict(), "conv1.weight": torch.zeros(4, 3, 7, 7)}
    refusal = r"fill conv1\.weight \(conv1\.weight is 4x3x7x7 where the network has 4x3x3x3\)"
    with pytest.raises(UserError, match=refusal):
        fill(resnet(), weights)
    assert "conv1.weight" in fill(resnet(), weights, allow_missing=True).skipped


@pytest.mark.parametrize(
    ("weights", "ours"),
    [
        pytest.param(mlp(10, (100, 100, 100)).state_dict(), mlp, id="mlp"),
        pytest.param(
            {**MammothMLP().state_dict(), "fc3.weight": torch.ones(100, 100)}, mlp, id="mammoth-mlp"
        ),
        pytest.param(OtherResNet(blocks=(3, 4, 6, 3)).state_dict(), resnet, id="resnet34"),
    ],
)
def test_a_deeper_network_is_refused(
    weights: dict[str, Tensor], ours: Callable[[], Backbone]
) -> None:
    backbone = ours()
    with pytest.raises(UserError, match="more layers than this one"):
        fill(backbone, weights)
    with pytest.raises(UserError, match="more layers than this one"):
        fill(backbone, {f"module.{name}": tensor for name, tensor in weights.items()} | FISHER)
    assert unchanged(backbone)
    assert fill(backbone, weights, allow_missing=True).missing == ()


def test_numbers_of_another_kind_are_refused() -> None:
    weights = {name: tensor.to(torch.int8) for name, tensor in mlp().state_dict().items()}
    with pytest.raises(UserError, match="fills nothing"):
        fill(mlp(), weights)


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param({}, id="none"),
        pytest.param({"encoder.weight": torch.ones(3)}, id="other-names"),
        pytest.param({"bn1.num_batches_tracked": torch.tensor(3)}, id="a-counter"),
    ],
)
def test_filling_nothing_is_always_an_error(weights: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=r"fills nothing: it holds .*; the network has head"):
        fill(resnet(), weights, allow_missing=True, new_head=True)


def test_a_head_alone_fills_nothing_when_a_new_one_is_wanted() -> None:
    weights = {n: v for n, v in mlp().state_dict().items() if "head" in n}
    with pytest.raises(UserError, match="fills nothing"):
        fill(mlp(), weights, allow_missing=True, new_head=True)


def test_batch_counters_of_old_torch_may_be_missing() -> None:
    weights = without(resnet().state_dict(), "num_batches_tracked")
    assert all("num_batches" in name for name in fill(resnet(), weights).missing)


# --- the account ------------------------------------------------------------------------------


def test_the_report_is_short_and_names_the_reasons() -> None:
    report = Report(
        {"a": "x", "b": "y"},
        {f"old.{i}": "the network has no such tensor" for i in range(8)} | {"c": "odd"},
        ("d",),
    )
    assert report.lines() == [
        "filled 2 of the network's 3 tensors",
        "not filled, so as initialized: d",
        "skipped (the network has no such tensor): old.0, old.1, old.2, old.3, old.4, old.5 and "
        "2 more",
        "skipped (odd): c",
    ]
