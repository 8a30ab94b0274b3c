"""The backbone with the head that the configuration chooses: its bits, its names, its growth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import perdure
from perdure.backbones.base import Backbone
from perdure.backbones.heads import NCM, Cosine, Head, Identity, Linear, Proxy
from perdure.backbones.mlp import MLP
from perdure.config.folder import options
from perdure.config.schema import Config, Mode
from perdure.config.typed import typed
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.randomness import seed_initialization
from perdure.run.network import make_network

CLASSES = {"linear": nn.Linear, "cosine": Cosine, "proxy": Proxy, "ncm": NCM, "none": Identity}
GROWING = sorted({"linear", "cosine", "proxy"})


def config_of(*overrides: str) -> Config:
    return typed(perdure.compose("model=sgd", *overrides))


def made(tiny: Arrays, *overrides: str) -> Backbone:
    seed_initialization(0)
    return make_network(config_of(*overrides), ClassIncremental(tiny, 5))


def test_every_option_is_known_here() -> None:
    assert set(CLASSES) <= set(options("head"))


@pytest.mark.parametrize("option", CLASSES)
def test_the_head_is_the_option_s_and_the_rest_keeps_its_bits(tiny: Arrays, option: str) -> None:
    network = made(tiny, f"head={option}")
    assert type(network.head) is CLASSES[option]
    assert not network.grows
    seed_initialization(0)
    plain = MLP((1, 28, 28), 10).state_dict()
    for name, value in network.state_dict().items():
        if option == "linear" or not name.startswith("head."):
            assert torch.equal(value, plain.pop(name)), name
    assert all(name.startswith("head.") for name in plain)
    outputs = 100 if option == "none" else 10
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, outputs)


@pytest.mark.parametrize("option", GROWING)
def test_a_growing_head_has_no_class_at_first(tiny: Arrays, option: str) -> None:
    network = made(tiny, f"head={option}", "head.growing=true")
    assert network.grows
    assert isinstance(network.head, Head)
    assert network.head.classes == ()
    network.grow(range(4))
    assert network.head.classes == (0, 1, 2, 3)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_weights_of_a_grown_network_make_it_grow(tiny: Arrays, mode: Mode, n_tasks: int) -> None:
    """As in a fork to another method."""
    config = config_of("head=cosine", "head.growing=true")
    config = replace(config, training=replace(config.training, mode=mode))
    benchmark = ClassIncremental(tiny, 5)
    network = make_network(config, benchmark)
    joint = mode is Mode.joint
    for classes in [range(10)] if joint else map(benchmark.classes, range(n_tasks)):
        network.grow(classes)
    again = make_network(config, benchmark, network.state_dict())
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(again(x), network(x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        make_network(config_of(), benchmark, network.state_dict())


class Own(MLP):
    """A user's backbone, with a head of its own."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(input_shape, n_classes, [20])
        self.head = nn.Sequential(nn.Linear(20, 5), nn.Linear(5, n_classes))


def test_a_backbone_keeps_a_head_of_its_own_unless_another_is_chosen(tiny: Arrays) -> None:
    config = config_of()
    for head, kind in ((config.head, nn.Sequential), (config_of("head=cosine").head, Cosine)):
        mine = replace(config, backbone={"_target_": f"{__name__}.Own"}, head=head)
        network = make_network(mine, ClassIncremental(tiny, 5))
        assert isinstance(network.head, kind)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["head=ncm", "head.metric=l1"], r"^head\.metric=l1: must be cosine or euclidean$"),
        (["head=proxy", "head.proxies=0"], r"^head\.proxies=0: must be an integer, 1 or more$"),
        (["head=cosine", "head.growing=1"], r"^head\.growing=1: must be true or false$"),
        (["head=none", "+head.growing=true"], r"^head\.growing=True: head takes no options$"),
    ],
    ids=["metric", "proxies", "type", "option"],
)
def test_a_mistake_is_one_sentence(tiny: Arrays, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(tiny, *overrides)


def test_linear_in_python_is_what_growing_gives_in_one_task(tiny: Arrays) -> None:
    growing = made(tiny, "head.growing=true")
    torch.manual_seed(1)
    growing.grow(range(10))
    torch.manual_seed(1)
    fixed, x = Linear(100, 10), torch.rand(2, 1, 28, 28)
    assert torch.equal(growing(x), fixed(growing.features(x)))
