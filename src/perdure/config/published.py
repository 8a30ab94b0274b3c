"""Published hyperparameters: which of them apply, and what the user should know about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from perdure.config.folder import CONF


def by_buffer_size(table: Mapping[int, Any], *, _root_: DictConfig) -> Any:
    """Resolver: the entry of `table` for the buffer's size, or for the nearest one listed."""
    return table[nearest(_root_.buffer.size, list(table))]


def nearest(size: int, sizes: list[int]) -> int:
    """The one of `sizes` whose ratio to `size` is nearest to 1."""
    return min(sizes, key=lambda known: abs(math.log(known / max(size, 1))))


def notices(config: DictConfig, overrides: list[str]) -> list[str]:
    """What the user should know before the run starts, one sentence each."""
    return [*_ignored_buffer(config, overrides), *_left_setting(config, overrides)]


def _ignored_buffer(config: DictConfig, overrides: list[str]) -> Iterator[str]:
    name = config.model.name
    given = [o for o in overrides if o.startswith(("buffer=", "buffer."))]
    if given and not config.model.needs_buffer and given != ["buffer=none"]:
        yield f"{name} keeps no buffer: {', '.join(given)} has no effect"


def _left_setting(config: DictConfig, overrides: list[str]) -> Iterator[str]:
    """Where overrides leave the setting that was published for this method and benchmark."""
    recipe, pair = config.recipe, f"{config.model.name} on {config.dataset.name}"
    if recipe.source is None:
        yield f"no published hyperparameters for {pair}: the groups' defaults are used"
        return
    sizes, size = list(recipe.buffer_sizes), config.buffer.size
    if config.model.needs_buffer and sizes and size not in sizes:
        known = ", ".join(map(str, sizes))
        yield (
            f"buffer.size={size} was not published for {pair} ({known} were): the "
            f"hyperparameters for {nearest(size, sizes)} are used"
        )
    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    if "optimizer" in given and "optimizer.lr" not in given:
        yield (
            f"optimizer={given['optimizer']} runs at optimizer.lr={config.optimizer.lr}, which was "
            f"published for {pair} with another optimizer"
        )
    for key, published in _published(config):
        value = OmegaConf.select(config, key)
        if key in given and value != published:
            yield f"{key}={value} leaves the published setting of {pair} ({published})"


def _published(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Keys and values that the recipe sets, resolved."""
    path = CONF / "recipe" / config.dataset.name / f"{config.model.name}.yaml"
    if not path.is_file():
        return
    node = OmegaConf.create(yaml.safe_load(path.read_text()))
    assert isinstance(node, DictConfig)
    for key in ("defaults", "recipe"):
        node.pop(key, None)
    node = OmegaConf.create({"buffer": {"size": config.buffer.size}, "recipe_of": node})
    for group, values in node.recipe_of.items():
        for key, value in values.items():
            yield f"{group}.{key}", value
