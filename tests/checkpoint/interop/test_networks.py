"""Several networks in one Catalyst file, each into the module that the user names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import perdure
from perdure.backbones.mlp import MLP
from perdure.checkpoint.interop.foreign import Opened, open_file
from perdure.checkpoint.interop.networks import placed
from perdure.checkpoint.interop.pack import pack_checkpoint, save_checkpoint
from perdure.checkpoint.interop.weights import fill
from perdure.errors import UserError

REAL = Path(__file__).parents[2] / "fixtures" / "foreign" / "catalyst-20.12_two.pth"
RUN = ("model=sgd", "dataset.iterations=1", "dataset.stop_after=1", "tracking.console=off")


def mlp(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP((1, 28, 28), 10)


@pytest.fixture
def real() -> Opened:
    return open_file(REAL)


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """An encoder without a classifier, and a classifier: `mlp(4)` in two networks."""
    whole = mlp(4)
    encoder = nn.ModuleDict({f"fc{i + 1}": layer for i, layer in enumerate([*whole.layers])})
    models = {"model": encoder, "top": nn.DataParallel(whole.head)}
    return Path(save_checkpoint(pack_checkpoint(models), tmp_path / "parted.pth"))


def test_catalysts_own_file(real: Opened) -> None:
    """Written by Catalyst 20.12: `enc` is our network, `head` one of two classes."""
    assert list(real.networks) == ["enc", "head"]
    backbone = mlp()
    weights, lines = placed(real, {"enc": "backbone"}, backbone)
    assert fill(backbone, weights).missing == ()
    stored = torch.load(REAL, weights_only=True)["model_enc_state_dict"]
    ours: dict[str, Tensor] = {
        "fc1": backbone.layers[0].weight,
        "fc2": backbone.layers[1].weight,
        "fc3": backbone.head.weight,
    }
    assert all(torch.equal(tensor, stored[f"{name}.weight"]) for name, tensor in ours.items())
    assert lines == ["left out (not in checkpoint.map): head"]


def test_a_head_of_other_classes_is_refused_as_ever(real: Opened) -> None:
    backbone = mlp()
    weights, lines = placed(real, {"enc": "backbone", "head": "backbone.head"}, backbone)
    assert lines == []
    with pytest.raises(UserError, match=r"head\.weight is for 2 classes, this run has 10"):
        fill(backbone, weights)


def test_two_networks_make_one(parted: Path) -> None:
    """Names of wrappers go, and a network may be called like one."""
    backbone = mlp()
    places = {"model": "backbone", "top": "backbone.head"}
    fill(backbone, placed(open_file(parted), places, backbone)[0])
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(backbone(x), mlp(4)(x))


def test_a_network_deep_in_ours(tmp_path: Path) -> None:
    one, two = nn.Linear(784, 100), nn.Linear(100, 10)
    models = {"first": one, "second": two}
    path = Path(save_checkpoint(pack_checkpoint(models), tmp_path / "a.pth"))
    backbone = mlp()
    places = {"first": "backbone.layers.0", "second": "backbone.head"}
    weights, _ = placed(open_file(path), places, backbone)
    assert fill(backbone, weights, allow_missing=True).missing == (
        "layers.1.weight",
        "layers.1.bias",
    )
    assert torch.equal(backbone.layers[0].weight, one.weight)
    assert torch.equal(backbone.head.bias, two.bias)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        pytest.param(
            {"encoder": "backbone"},
            r"checkpoint\.map=\{encoder: backbone\}: catalyst-20.12_two\.pth holds no network "
            r"encoder; it holds enc, head",
            id="no-such-network",
        ),
        pytest.param(
            {"enc": "backbone.tail"},
            r"checkpoint\.map\.enc=backbone\.tail: this run has no such module; backbone, "
            r"backbone\.head, backbone\.layers, backbone\.layers\.0, backbone\.layers\.1 are",
            id="no-such-module",
        ),
        pytest.param({"enc": "old"}, "no such module; backbone, ", id="outside-the-network"),
        pytest.param({"enc": "backbone."}, "no such module", id="an-empty-part"),
    ],
)
def test_what_is_not_there_is_named(real: Opened, places: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        placed(real, places, mlp())


def test_two_networks_never_fill_one_tensor(tmp_path: Path) -> None:
    models = {"a": nn.Linear(100, 10), "b": nn.Linear(100, 10)}
    path = Path(save_checkpoint(pack_checkpoint(models), tmp_path / "a.pth"))
    with pytest.raises(UserError, match=r"a and b of a\.pth both give head\.weight"):
        placed(open_file(path), {"a": "backbone.head", "b": "backbone.head"}, mlp())


def test_a_file_of_one_network_needs_no_map() -> None:
    one = open_file(REAL.with_name("catalyst-20.12_my_checkpoint.pth"))
    with pytest.raises(UserError, match="holds no networks with names of their own"):
        placed(one, {"enc": "backbone"}, mlp())


def test_a_run_starts_from_a_part_and_says_what_a_file_holds() -> None:
    results = perdure.train(*RUN, f"checkpoint.load={REAL}", "checkpoint.map={enc: backbone}")
    assert results["status"] == "finished"
    with pytest.raises(UserError, match=r"holds the networks enc, head, and checkpoint\.map=\{enc"):
        perdure.train(*RUN, f"checkpoint.load={REAL}")
