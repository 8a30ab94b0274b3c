"""The networks: sizes by the layer formulas, initial weights, shapes, and what they cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.backbones.preact_resnet import PreActResNet18
from perdure.backbones.resnet import ReducedResNet18, ResNet18, ResNet32
from perdure.backbones.small_conv import SmallConv
from perdure.errors import UserError

GRAY, COLOR = (1, 28, 28), (3, 32, 32)


def n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def resnet18_parameters(channels: int, n_classes: int, w: int) -> int:
    """Convolutions without bias, two numbers a channel for each batch norm, and the head."""
    total = 9 * channels * w + 2 * w  # stem
    total += 4 * (9 * w * w + 2 * w)  # first stage: 4 convolutions w -> w
    for n in (2 * w, 4 * w, 8 * w):  # the others: n/2 -> n, three n -> n, 1x1 shortcut n/2 -> n
        total += 9 * (n // 2) * n + 3 * 9 * n * n + (n // 2) * n + 5 * 2 * n
    return total + 8 * w * n_classes + n_classes


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (MLP(GRAY, 10), (784 + 1) * 100 + (100 + 1) * 100 + (100 + 1) * 10),
        (MLP(GRAY, 10, hidden=(256,)), (784 + 1) * 256 + (256 + 1) * 10),
        (MLP(GRAY, 10, hidden=()), (784 + 1) * 10),
        (ResNet18(COLOR, 10), 11_173_962),  # the published number for CIFAR-10
        (ResNet18(COLOR, 10), resnet18_parameters(3, 10, 64)),
        (ResNet18(GRAY, 10, width=8), resnet18_parameters(1, 10, 8)),
        (ReducedResNet18(COLOR, 100), resnet18_parameters(3, 100, 20)),
        (ReducedResNet18(COLOR, 100), 1_109_240),
        (ResNet32(COLOR, 10), 464_154),  # 0.46 million in the paper's table 6
        (SmallConv(COLOR, 10), 1_250_858),  # what Keras says of its CIFAR-10 example
        (PreActResNet18(COLOR, 10), resnet18_parameters(3, 10, 64) - 2 * (64 + 960) + 256),
    ],
    ids=[
        "mlp",
        "mlp-256",
        "linear",
        "resnet",
        "by formula",
        "narrow",
        "reduced",
        "as a figure",
        "resnet32",
        "small-conv",
        "preact",
    ],
)
def test_number_of_parameters(network: Backbone, expected: int) -> None:
    assert n_parameters(network) == expected


BACKBONES = [
    (MLP, {}), (ResNet18, {"width": 4}), (ReducedResNet18, {"width": 4}), (ResNet32, {"width": 4}),
    (PreActResNet18, {"width": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), BACKBONES, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), GRAY, COLOR, (3, 33, 47), (3, 64, 64)], ids=lambda shape: str(shape[1:])
)
def test_logits_are_the_head_on_the_features(
    kind: type[Backbone], settings: Any, shape: Any
) -> None:
    network = kind(shape, 7, **settings).eval()
    x = torch.rand(2, *shape)
    assert network.features(x).shape == (2, network.n_features)
    assert network(x).shape == (2, network.n_classes) == (2, 7)
    assert torch.equal(network(x), network.head(network.features(x)))


def test_mlp_starts_as_glorot_and_bengio_say() -> None:
    torch.manual_seed(0)
    network = MLP(GRAY, 10)
    linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 3
    for layer in linears:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.97 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not layer.bias.any()


def test_mlp_is_relu_of_affine_maps() -> None:
    network = MLP((1, 2, 2), 3, hidden=(5, 4)).double()
    x = torch.randn(6, 1, 2, 2, dtype=torch.float64)
    w0, b0, w1, b1 = (p.detach() for layer in network.layers for p in layer.parameters())
    hidden = (x.reshape(6, 4) @ w0.T + b0).clamp(min=0)
    expected = (hidden @ w1.T + b1).clamp(min=0) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), expected)


class CountOps(TorchDispatchMode):
    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


def test_mlp_dispatches_no_op_too_many() -> None:
    """Forward: 1 view, 3 x (t, addmm), 2 x (relu, its saved output). Backward with the loss: 36."""
    network, x, y = MLP(GRAY, 10), torch.rand(20, *GRAY), torch.arange(20) % 10
    with CountOps() as forward:  # type: ignore[no-untyped-call]
        logits = network(x)
    loss = F.cross_entropy(logits, y)
    with CountOps() as backward:  # type: ignore[no-untyped-call]
        loss.backward()
    assert forward.n <= 11
    assert backward.n <= 36
    with torch.no_grad(), CountOps() as inference:  # type: ignore[no-untyped-call]
        network(x)
    assert inference.n <= 9


def test_resnet_downsamples_thrice_and_pools_what_is_left() -> None:
    network = ResNet18(COLOR, 10, width=4).eval()
    with torch.no_grad():
        x = torch.rand(2, *COLOR)
        maps = network.feature_maps(x)
        assert [tuple(stage.shape[1:]) for stage in maps] == [
            (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4),
        ]  # fmt: skip
        pooled = F.adaptive_avg_pool2d(maps[-1].relu(), 1).flatten(1)
        torch.testing.assert_close(network.features(x), pooled)


def test_mlp_s_maps_are_its_hidden_layers_before_relu() -> None:
    network, x = MLP((1, 2, 2), 3, hidden=(5, 4)), torch.randn(6, 1, 2, 2)
    first, second = network.feature_maps(x)
    assert torch.equal(first, network.layers[0](x.flatten(1)))
    assert torch.equal(second, network.layers[1](first.relu()))
    assert torch.equal(network.features(x), second.relu())
    linear = MLP((1, 2, 2), 3, hidden=())
    assert torch.equal(linear.features(x), x.flatten(1))


def test_basic_block_is_the_published_one() -> None:
    network = ResNet18(COLOR, 10, width=4).eval()
    with torch.no_grad():
        for number, n_in, n_out, stride in ((0, 4, 4, 1), (2, 4, 8, 2)):
            block = network.blocks[number]
            assert isinstance(block, nn.Module)
            x = torch.randn(2, n_in, 8, 8)
            state = block.state_dict()
            out = F.conv2d(x, state["conv1.weight"], stride=stride, padding=1)
            out = F.conv2d((out / math.sqrt(1 + 1e-5)).relu(), state["conv2.weight"], padding=1)
            short = F.conv2d(x, state["shortcut.0.weight"], stride=2) if number else None
            scale = math.sqrt(1 + 1e-5)
            expected = (out / scale + (x if short is None else short / scale)).relu()
            assert expected.shape[1] == n_out
            torch.testing.assert_close(block(x), expected)


def test_config_lists_are_taken() -> None:
    config = OmegaConf.create({"hidden": [12, 6], "input_shape": [1, 4, 4]})
    assert n_parameters(MLP(config.input_shape, 2, config.hidden)) == 17 * 12 + 13 * 6 + 7 * 2


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (MLP, (GRAY, 10, (100, 0)), r"backbone\.hidden\[1\] .* at least 1, not 0"),
        (MLP, (GRAY, 10, (100, 2.5)), r"backbone\.hidden\[1\] .* not 2\.5"),
        (MLP, (GRAY, 10, 100), r"backbone\.hidden must be a list of layer widths, not 100"),
        (MLP, (GRAY, 0), r"n_classes .* not 0"),
        (MLP, (GRAY, True), r"n_classes .* not True"),
        (MLP, ((1, 28), 10), r"input_shape must be \(channels, height, width\), not \(1, 28\)"),
        (MLP, ((1, -28, 28), 10), r"input_shape\[1\] .* not -28"),
        (ResNet18, (COLOR, 10, 0), r"backbone\.width .* not 0"),
        (ReducedResNet18, (COLOR, 10, "20"), r"backbone\.width .* not '20'"),
        (ResNet18, ((3, 32, 7), 10), r"at least 8x8 .* not \(3, 32, 7\)"),
    ],
    ids=["zero", "fraction", "no list", "no class", "bool", "2-d", "negative", "w0", "text", "7px"],
)
def test_bad_sizes_are_refused(kind: type[Backbone], arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(*arguments)
