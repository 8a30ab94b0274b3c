"""The network of a run from its configuration: the backbone, and the head that the config chooses.

The head `linear` that does not grow is the backbone's own, whatever its constructor made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Head, Linear
from perdure.config.build import build, locate
from perdure.config.schema import Config, Mode
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario

_BLOCKS = "head.blocks."


def make_network(
    config: Config, benchmark: Scenario, weights: Mapping[str, Any] | None = None
) -> Backbone:
    """The backbone with its head, on the CPU: fresh, or with `weights`.

    Args:
        config: the groups `backbone` and `head`.
        benchmark: gives the shape of the examples and the number of classes.
        weights: a state of the same network, grown for some of the tasks, if it grows.

    Raises:
        UserError: a class does not take its options.
        RuntimeError: the weights do not fit.
    """
    backbone: Backbone = build(
        config.backbone, "backbone", input_shape=benchmark.shape, n_classes=benchmark.n_classes
    )
    node = config.head
    if locate(node["_target_"], "head") is not Linear or node.get("growing"):
        sizes = {"n_features": backbone.n_features, "n_classes": benchmark.n_classes}
        backbone.head = build(node, "head", **sizes)
    if weights is not None:
        grow_as(backbone, weights, config, benchmark)
        backbone.load_state_dict(weights)
    return backbone


def grow_as(
    backbone: Backbone, weights: Mapping[str, Any], config: Config, benchmark: Scenario
) -> None:
    """Give a growing head the classes of as many tasks as `weights` has blocks of."""
    head, n_tasks = backbone.head, benchmark.n_tasks
    if not (isinstance(head, Head) and head.grows):
        return
    n_blocks = len({name.split(".")[2] for name in weights if name.startswith(_BLOCKS)})
    joint = config.training.mode is Mode.joint
    tasks = [range(benchmark.n_classes)] if joint else map(benchmark.classes, range(n_tasks))
    for classes in tasks:
        if len(head.blocks) < n_blocks:
            head.grow(Classes.of(classes))
