"""The configuration as one typed object, and the plain data that is stored of it.

A run reads a `Config` and nothing beside it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from perdure.config.schema import Config
from perdure.io.redaction import ADDRESSES


def typed(config: DictConfig) -> Config:
    """A validated `config` as an object, resolved; groups that name a `_target_` are dicts in it.

    Secrets that interpolations brought in are redacted.
    """
    resolved = OmegaConf.to_object(config)
    assert isinstance(resolved, Config)
    redacted: Config = ADDRESSES.redact_values(resolved)
    return redacted


def as_plain(config: Config) -> dict[str, Any]:
    """What checkpoints, recorders and W&B hold of `config`: dicts, lists, text and numbers."""
    return asdict(config, dict_factory=_plain)


def _plain(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value.name if isinstance(value, Enum) else value for key, value in items}
