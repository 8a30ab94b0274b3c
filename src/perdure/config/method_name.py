"""The name of a method: that of its model, and of its add-on where there is one (`derpp+star`)."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from perdure.config.schema import Config

JOINT = "+"
"""What stands between the two."""


def method_name(config: DictConfig | Config) -> str:
    """What names the method in files, tables, results.json and W&B."""
    if isinstance(config, Config):
        model, addon = config.model["name"], (config.addon or {}).get("name")
    else:
        model, addon = config.model.name, OmegaConf.select(config, "addon.name")
    return str(model) if addon is None else f"{model}{JOINT}{addon}"


def options_of(name: str) -> dict[str, str]:
    """The options of the groups `model` and `addon` that give the method called `name`."""
    model, _, addon = name.partition(JOINT)
    return {"model": model, "addon": addon} if addon else {"model": model}
