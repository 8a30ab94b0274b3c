"""Every file of conf/backbone: it composes, builds, trains; its maps, tensor names and bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.backbones.base import Backbone
from perdure.config.build import build
from perdure.config.compose import compose
from perdure.config.folder import CONF
from perdure.config.typed import typed
from perdure.errors import UserError
from perdure.models.per_example import squared_gradients

GRAY, COLOR = (1, 28, 28), (3, 32, 32)
SHAPES = pytest.mark.parametrize("shape", [GRAY, COLOR], ids=["gray", "color"])
OPTIONS = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
NARROW: dict[str, dict[str, Any]] = {"mlp": {"hidden": [12, 7]}}
"""Of the options without `width`."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((option, {}) for option in OPTIONS),
    ("mlp", {"hidden": []}),
    ("resnet32", {"last_relu": False}),
    ("small-conv", {"dropout": True}),
]
EACH = pytest.mark.parametrize(
    ("option", "settings"), VARIANTS, ids=[f"{o} {s or ''}".strip() for o, s in VARIANTS]
)

N_PARAMETERS = {
    "mlp": 318_410,
    "preact-resnet18": 11_172_170,
    "reduced-resnet18": 1_094_750,
    "resnet18": 11_173_962,
    "resnet32": 464_154,
    "small-conv": 1_250_858,
}
"""As configured, for ten classes of CIFAR's images."""


def composed(option: str, shape: tuple[int, int, int], **settings: Any) -> Backbone:
    node = typed(compose("dataset=seq-mnist", f"backbone={option}")).backbone
    network: Backbone = build({**node, **settings}, "backbone", shape, 10)
    return network


def narrow(option: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> Backbone:
    torch.manual_seed(5)
    return composed(option, shape, **{**NARROW.get(option, {"width": 4}), **settings})


@pytest.mark.parametrize("option", OPTIONS)
def test_number_of_parameters_as_configured(option: str) -> None:
    assert sum(p.numel() for p in composed(option, COLOR).parameters()) == N_PARAMETERS[option]


@SHAPES
@EACH
def test_the_features_are_the_last_map_pooled(
    option: str, settings: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    network, x = narrow(option, settings, shape).eval(), torch.rand(3, *shape)
    as_they_come = [stage.clone() for stage in network.stages(x)]
    maps = network.feature_maps(x)
    n_axes = 2 if option == "mlp" else 4
    assert all(len(stage) == 3 and stage.ndim == n_axes for stage in maps)
    features = network.pool(maps[-1])
    assert features.shape == (3, network.n_features)
    assert torch.equal(features, network.features(x))
    assert torch.equal(network.head(features), network(x))
    for stage, before in zip(maps, as_they_come, strict=True):  # nothing changed them in place
        assert torch.equal(stage, before)


@pytest.mark.parametrize("asked", ["forward", "features", "feature_maps"])
@EACH
def test_every_layer_runs_once(option: str, settings: dict[str, Any], asked: str) -> None:
    network, calls = narrow(option, settings, GRAY), Counter[str]()
    layers = {n: m for n, m in network.named_modules() if not [*m.children()] and [*m.parameters()]}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    getattr(network, asked)(torch.rand(2, *GRAY))
    assert set(calls.values()) <= {1}
    if asked == "forward":
        assert set(calls) == set(layers)


@SHAPES
@EACH
def test_every_parameter_gets_a_gradient(
    option: str, settings: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    network = narrow(option, settings, shape)
    F.cross_entropy(network(torch.rand(8, *shape)), torch.arange(8)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@EACH
def test_the_rows_are_independent_where_it_says_so(option: str, settings: dict[str, Any]) -> None:
    network = narrow(option, settings, GRAY).double().train()
    x = torch.rand(6, *GRAY, dtype=torch.float64)
    with torch.no_grad():
        together = network(x)
        one_by_one = torch.cat([network(row) for row in x.split(1)])
    same = torch.allclose(together, one_by_one, rtol=1e-9, atol=1e-12)
    assert network.rows_are_independent == same


@EACH
def test_the_seed_determines_every_bit(option: str, settings: dict[str, Any]) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        network = composed(option, GRAY, **{**NARROW.get(option, {"width": 4}), **settings})
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        x = torch.rand(6, *GRAY, generator=torch.Generator().manual_seed(0))
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(x), torch.arange(6)).backward()
            optimizer.step()
        return network.state_dict()

    one, again, other = trained(3), trained(3), trained(4)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@EACH
def test_the_fisher_information_of_single_examples_is_autograd_s(
    option: str, settings: dict[str, Any]
) -> None:
    network = narrow(option, settings, GRAY).double().eval()
    x, y = torch.rand(3, *GRAY, dtype=torch.float64), torch.arange(3)
    parameters = dict(network.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for row, label in zip(x.split(1), y.split(1), strict=True):
        loss = F.cross_entropy(network(row), label)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient.square()
    found = squared_gradients(network, x, y)
    assert found.keys() == expected.keys()
    for name, total in expected.items():
        torch.testing.assert_close(found[name], total, msg=lambda text, name=name: f"{name} {text}")


def weight(name: str) -> list[str]:
    return [f"{name}.weight"]


def affine(name: str) -> list[str]:
    return [f"{name}.weight", f"{name}.bias"]


def norm(name: str) -> list[str]:
    return [
        *affine(name),
        *(f"{name}.{of}" for of in ("running_mean", "running_var", "num_batches_tracked")),
    ]


def basic_blocks(n: int, projected: tuple[int, ...]) -> Iterator[str]:
    for i in range(n):
        for part in (1, 2):
            yield from [*weight(f"blocks.{i}.conv{part}"), *norm(f"blocks.{i}.bn{part}")]
        if i in projected:
            yield from [*weight(f"blocks.{i}.shortcut.0"), *norm(f"blocks.{i}.shortcut.1")]


def units(n: int, projected: tuple[int, ...]) -> Iterator[str]:
    for i in range(n):
        for part in (1, 2):
            yield from [*norm(f"units.{i}.bn{part}"), *weight(f"units.{i}.conv{part}")]
        if i in projected:
            yield from weight(f"units.{i}.shortcut")


STEM = [*affine("head"), *weight("conv1")]
RESNET18 = [*STEM, *norm("bn1"), *basic_blocks(8, (2, 4, 6))]
NAMES = {
    "mlp": [*affine("head"), *affine("layers.0"), *affine("layers.1")],
    "preact-resnet18": [*STEM, *units(8, (2, 4, 6)), *norm("bn")],
    "reduced-resnet18": RESNET18,
    "resnet18": RESNET18,
    "resnet32": [*STEM, *norm("bn1"), *basic_blocks(15, ())],
    "small-conv": [
        *affine("head"),
        *chain.from_iterable(map(affine, ("conv1", "conv2", "conv3", "conv4", "dense"))),
    ],
}
"""What checkpoints call the tensors, in their order: another name makes them unreadable."""


@pytest.mark.parametrize("option", OPTIONS)
def test_the_names_of_the_tensors_stay(option: str) -> None:
    assert list(narrow(option, {}, GRAY).state_dict()) == NAMES[option]


class Flat(Backbone):
    """As a user may write it: `features` alone."""

    def __init__(self) -> None:
        super().__init__(784, 10)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def test_without_stages_there_are_features_but_no_maps() -> None:
    network, x = Flat(), torch.rand(2, *GRAY)
    assert torch.equal(network(x), network.head(x.flatten(1)))
    with pytest.raises(UserError, match=r"^backbone\._target_=.*\.Flat: has no feature maps; "):
        network.feature_maps(x)


def fan(layer: nn.Module, out: bool) -> int:
    assert isinstance(layer, nn.Conv2d)
    return 9 * (layer.out_channels if out else layer.in_channels)


@pytest.mark.parametrize(("option", "out"), [("resnet32", False), ("preact-resnet18", True)])
def test_convolutions_start_with_the_variance_of_he_et_al_2015(option: str, out: bool) -> None:
    torch.manual_seed(0)
    network = composed(option, COLOR, width=16)
    for name, layer in network.named_modules():
        if name.endswith(("conv1", "conv2")):
            drawn = layer.weight.detach() * (fan(layer, out) / 2) ** 0.5
            assert drawn.std().item() == pytest.approx(1, abs=5 / (2 * drawn.numel()) ** 0.5), name
    assert not network.head.bias.any()
