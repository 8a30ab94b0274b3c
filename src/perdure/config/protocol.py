"""Protocols: what must be the same for published numbers to hold, and how a run departs from it.

A protocol names an option of each group (`optimizer: sgd`: all keys of that file, but those that
are hyperparameters) and values of keys (`dataset.epochs: 1`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from perdure.config.compare import listed
from perdure.config.method_name import options_of
from perdure.config.overrides import leaves
from perdure.config.tables import Setting
from perdure.config.yaml_data import LOADER

GROUPS = {
    "model": "model",
    "addon": "addon",
    "source": "dataset.source",
    "scenario": "dataset.scenario",
    "transform": "dataset.transform",
    "backbone": "backbone",
    "head": "head",
    "optimizer": "optimizer",
    "scheduler": "scheduler",
    "buffer": "buffer",
}
"""Groups that a protocol chooses, and where their keys stand in a configuration."""

DEFAULTS: Mapping[str, Any] = {
    "dataset.iterations": None,
    "training.mode": "continual",
    "training.clip_norm": None,
    "training.reset_optimizer": True,
    "training.scheduler_per": "epoch",
    "training.sync_batchnorm": False,
    "training.replay_sync": "replicated",
    "training.loss_scope": "full",
    "head": "linear",
    "addon": "none",
}
"""Groups and keys of every protocol, with what counts where a table gives nothing."""

OWN = ("training.loss_scope", "full")
"""A key and its value for which null, the method's own, counts too: of the methods here it is that.
A table that gives null means the method's own and nothing else."""

MARK = "${published:"
"""How a group's file marks a hyperparameter."""

ABSENT: Any = object()
_NEVER = ("name", "size", "per_class")  # of `model` and `buffer`: they say which row it is


@dataclass(frozen=True)
class Difference:
    """Where a configuration departs from a published setting."""

    key: str
    now: Any
    published: Any

    def __str__(self) -> str:
        return f"{self.typed} (published: {shown(self.published)})"

    @property
    def typed(self) -> str:
        """What the configuration has, as an override."""
        return f"{self.key}={shown(self.now)}"


class Protocol:
    """The protocol of a setting, beside which configurations are laid.

    Args:
        setting: the published row.
        folders: where the files of the groups are, in the order in which they are looked for.
    """

    def __init__(self, setting: Setting, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._files: dict[str, Mapping[str, Any] | None] = {}
        self._setting = setting
        self._values = {**DEFAULTS, **setting.protocol, **options_of(setting.row.method)}
        if setting.row.buffer is None:
            self._values.pop("buffer", None)

    def differences(self, config: DictConfig) -> Iterator[Difference]:
        """Where `config` departs from it, group by group and then key by key."""
        chosen = [group for group in GROUPS if group in self._values]
        for group in chosen:
            yield from self._in_group(config, group)
        for key, value in self._values.items():
            if key.partition(".")[0] not in chosen:
                now = plain(OmegaConf.select(config, key, default=None))
                if now != listed(value) and not (now is None and (key, value) == OWN):
                    yield Difference(key, now, value)

    def default(self, key: str) -> Any:
        """What the file of the group sets `key` to, as written there; ABSENT where it does not."""
        group = key.partition(".")[0]
        return dict(leaves(self._file(group) or {}, group)).get(key, ABSENT)

    def _in_group(self, config: DictConfig, group: str) -> Iterator[Difference]:
        """The same in the part of `config` where the options of `group` stand."""
        path, option = GROUPS[group], self._values[group]
        file = self._file(group)
        if file is None:
            yield Difference(group, "unknown here", option)
            return
        amended = {k: v for k, v in self._values.items() if k.startswith(f"{group}.")}
        expected = {**dict(leaves(file, group)), **amended}
        part = OmegaConf.select(config, path)
        now = dict(leaves({} if part is None else _unresolved(part), group))
        target = f"{group}._target_"
        if now.get(target) != expected.get(target):
            yield Difference(f"{path}._target_", now.get(target), f"{group}={option}")
            return
        for key in [*expected, *(k for k in now if k not in expected)]:
            value, place = expected.get(key, ABSENT), f"{path}{key.removeprefix(group)}"
            if self._is_free(key, value):
                continue
            meant = now.get(key, ABSENT)
            if meant != value and "${" in str(meant):
                meant = plain(OmegaConf.select(config, place))
            if listed(meant) != listed(value):
                yield Difference(place, meant, value)

    def _is_free(self, key: str, value: Any) -> bool:
        """Whether `key` is a hyperparameter, or says which row it is."""
        is_marked = str(value).startswith(MARK)
        return is_marked or key in self._setting.values or key.partition(".")[2] in _NEVER

    def _file(self, group: str) -> Mapping[str, Any] | None:
        """The content of the group's file, as written; None if there is no such file."""
        if group not in self._files:
            self._files[group] = self._read(group)
        return self._files[group]

    def _read(self, group: str) -> Mapping[str, Any] | None:
        for folder in self._folders:
            path = folder / group / f"{self._values.get(group)}.yaml"
            if path.is_file():
                content = dict(yaml.load(path.read_bytes(), LOADER) or {})
                # Which other options it chooses is seen in these groups.
                return {key: value for key, value in content.items() if key != "defaults"}
        return None


def marked(config: DictConfig) -> Iterator[str]:
    """Keys of a configuration that have the published value, or would have it."""
    unresolved: Any = OmegaConf.to_container(config, resolve=False)
    for group, part in unresolved.items():
        for key, value in leaves(part, str(group)):
            if str(value).startswith(MARK):
                yield key


def plain(value: Any) -> Any:
    """A value of a configuration as plain data."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    return value.name if isinstance(value, Enum) else value


def shown(value: Any) -> str:
    """A value as it is typed."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return "not set" if value is ABSENT else str(value)


def _unresolved(part: Any) -> Any:
    return OmegaConf.to_container(part, resolve=False)
