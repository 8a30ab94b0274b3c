"""What a configuration stored in a checkpoint may name: which classes, and no path or address.

A class counts where it is one of this package or of torch's optimizers, or where the command line
or its configuration folders name it.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from perdure.config.build import locate, locations
from perdure.config.folder import CONF
from perdure.config.overrides import Arguments
from perdure.errors import UserError

TARGET = "_target_"
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
_OURS = {
    "model": ("perdure.models.",),
    "addon": ("perdure.models.",),
    "dataset": ("perdure.datasets.",),
    "buffer": ("perdure.buffers.",),
    "backbone": ("perdure.backbones.",),
    "head": ("perdure.backbones.heads.",),
    "optimizer": ("perdure.training.optim.", "torch.optim."),
    "scheduler": ("torch.optim.",),
}
"""Group → where those classes lie that a file may name by itself."""


class Trust:
    """Which classes a file may name: `origin` is the file, `remembered` its run's folders."""

    def __init__(self, origin: str, command: Arguments, remembered: Sequence[str]) -> None:
        self.origin = origin
        self._remembered = remembered
        self._allowed = texts(command.value("checkpoint.allow"))
        self._command = command
        self._named: Mapping[str, Collection[str]] | None = None

    def check(self, key: str, value: Any) -> None:
        """Refuse a class at `key`, or anywhere in a value that is a list or a mapping.

        Raises:
            UserError: names the class, the key, and what to add.
        """
        if key.rpartition(".")[2] == TARGET:
            if value is not None and not self.is_trusted(key, value):
                self._refuse(key, value)
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                self.check(f"{key}.{name}", inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.check(key, inner)

    def is_trusted(self, key: str, target: Any) -> bool:
        """Whether a file may name the class `target` at `key`."""
        if not isinstance(target, str) or not _IMPORT_PATH.fullmatch(target):
            return False
        if target in self._allowed:
            return True
        if self._named is None:
            self._named = named_classes(config_roots(self._command))
        return target in self._named.get(_group_of(key), ()) or _is_ours(key, target)

    def _refuse(self, key: str, target: Any) -> None:
        group = _group_of(key)
        if isinstance(target, str) and _IMPORT_PATH.fullmatch(target):
            remedy = f"add checkpoint.allow=[{target}] if you trust it"
        else:
            remedy = f"type {key}=package.module.Class"
        raise UserError(
            f"{key}={target}: named by {self.origin} for the group {group} and by nothing on this "
            f"command line; a file's own choice of code is not run: {remedy}"
            f"{advice(self._remembered)}"
        )


def classes_to_allow(config: Mapping[str, Any], command: Arguments) -> list[str]:
    """The classes in `config` that its checkpoint could not name by itself later on."""
    trust = Trust("", command, ())
    named = [(f"{key}.{TARGET}", str(node[TARGET])) for key, node in nodes(config)]
    return list(dict.fromkeys(target for key, target in named if not trust.is_trusted(key, target)))


def location_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Keys of parameters that are paths, addresses or references by their annotated type."""
    for group, node in nodes(config):
        with suppress(UserError):  # a class that is not there: who builds it says so
            yield from (f"{group}.{name}" for name in locations(locate(node[TARGET], group)))


def refuse_locations(
    config: Mapping[str, Any], taken: Collection[str], allowed: Collection[str], origin: str
) -> None:
    """Refuse paths, URLs and references, by their annotated type, that come from a file.

    Args:
        config: the composed configuration, plain.
        taken: keys whose values come from the file.
        allowed: `checkpoint.allow`.
        origin: the file.

    Raises:
        UserError: names the key and what to add.
    """
    touched = {key.partition(".")[0] for key in taken}
    for key in location_keys({name: config[name] for name in touched if name in config}):
        if key in taken and key not in allowed:
            value = lookup(config, key)[0]
            raise UserError(
                f"{key}={value}: a path or an address that {origin} names is not used; type it, "
                f"or add checkpoint.allow=[{key}] if you trust it"
            )


def nodes(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, mapping) of each part of a configuration that names a class."""
    if isinstance(value, Mapping):
        if isinstance(value.get(TARGET), str):
            yield key, value
        for name, inner in value.items():
            yield from nodes(inner, f"{key}.{name}" if key else str(name))


# --- classes that configuration files name --------------------------------------------------------


def config_roots(command: Arguments) -> list[Path]:
    """The folders of configuration files that `command` is composed from."""
    roots = [CONF, *map(Path, command.config_folders)]
    for package in command.config_packages:
        try:
            roots.append(Path(str(resources.files(package))))
        except (ImportError, TypeError):
            continue  # Hydra says so itself
    return roots


def named_classes(roots: Sequence[Path]) -> dict[str, set[str]]:
    """Group → the classes that the configuration files below `roots` name for it."""
    found: dict[str, set[str]] = defaultdict(set)
    for root in roots:
        for path in root.rglob("*.yaml"):
            text = path.read_text(errors="replace")
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError:
                continue  # not one that Hydra could compose
            header = _PACKAGE.search(text)
            package = header[1] if header else "_group_"
            if package == "_group_":
                package = ".".join(path.relative_to(root).parent.parts)
            for key, node in nodes(content, "" if package == "_global_" else package):
                found[_group_of(f"{key}.{TARGET}")].add(node[TARGET])
    return found


def _group_of(key: str) -> str:
    """`model` of `model.teacher._target_`; a data set's parts are groups of their own."""
    parts = key.split(".")
    return ".".join(parts[:2]) if parts[0] == "dataset" and len(parts) > 2 else parts[0]


def _is_ours(key: str, target: str) -> bool:
    """Whether it is a class of this package or of torch's optimizers, and of the key's group."""
    name, *rest = key.split(".")
    is_nested = len(rest) > (2 if name == "dataset" else 1)
    every = tuple(prefix for prefixes in _OURS.values() for prefix in prefixes)
    if not target.startswith(every if is_nested else _OURS.get(name, ())):
        return False
    found = locate(target, key.removesuffix(f".{TARGET}"))
    # Functions, and what a module there has only imported, are not meant.
    return inspect.isclass(found) and found.__module__.startswith(("perdure.", "torch.optim."))


def advice(folders: Sequence[str]) -> str:
    named = " ".join(f"--config-dir={folder}" for folder in folders)
    return f" (the run was started with {named})" if named else ""


def lookup(tree: Any, key: str) -> tuple[Any, bool]:
    """The value at a dotted key, and whether there is one."""
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None, False
        tree = tree[name]
    return tree, True


def texts(value: Any) -> list[str]:
    """The strings in a list; one string is a list of one."""
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else []
