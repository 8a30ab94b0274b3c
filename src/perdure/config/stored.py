"""The configuration stored in a checkpoint, taken as data: what of it may shape a run.

A file may choose among the options that the configuration folders of this command line have, and
set values of the groups that describe a run. It names no class that nobody here has named, no path
and no address, and nothing that says where or what is written. Stored `${…}` are literal text.
Whatever else it holds is not taken.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from perdure.config.benchmark import PARTS
from perdure.config.build import locate, locations
from perdure.config.compare import BENCHMARK, is_free, is_within, listed
from perdure.config.compose import compose_with_options
from perdure.config.folder import CONF
from perdure.config.overrides import Arguments, leaves, parse, quoted
from perdure.config.schema import require_component
from perdure.errors import UserError
from perdure.io.redaction import redacted

GROUPS = ("model", "dataset", "buffer", "backbone", "optimizer", "scheduler", "training")
"""Groups that describe a run: their options and values are taken from a file."""

NOT_STORED = ("checkpoint", "tracking", "data", "hydra.searchpath", "local", "debug")
"""Keys (and what is below them) that no file may set and that a command must repeat to resume."""

OF_ONE_COMMAND = tuple(
    f"checkpoint.{key}" for key in ("load", "fork", "other_benchmark", "resume", "allow")
)
"""Keys by which a later command means something else."""

_PRESETS = (*PARTS, "experiment")  # groups whose options set values of the others
_PLACES = {**{group: group for group in GROUPS}, **{part: f"dataset.{part}" for part in PARTS}}
"""Groups, and where their keys stand in a configuration."""
_KEYS = ("seed", "deterministic", "device", "threads", "recipe")
_OPTION = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)", re.MULTILINE)
_TARGET = "_target_"
_OURS = {
    "model": ("perdure.models.",),
    "dataset": ("perdure.datasets.",),
    "buffer": ("perdure.buffers.",),
    "backbone": ("perdure.backbones.",),
    "optimizer": ("perdure.training.optim.", "torch.optim."),
    "scheduler": ("torch.optim.",),
}
"""Group → where those classes lie that a file may name by itself."""
_MOST_VALUES = 100_000
_DEEPEST = 50


class StoredConfig:
    """What a full checkpoint says of its run's configuration.

    Args:
        state: the content of the file.
        origin: where it came from, for messages.

    Attributes:
        args: the resolved configuration, plain.

    Raises:
        UserError: it holds no configuration.
    """

    def __init__(self, state: Mapping[str, Any], origin: str) -> None:
        args = state.get("args")
        if not isinstance(args, Mapping) or not _is_plain(args):
            raise UserError(f"{origin}: damaged (it holds no configuration of a run)")
        self.origin = origin
        self.args: dict[str, Any] = dict(args)
        self._typed = [parse(text) for text in _texts(state.get("overrides"))]
        self._folders = _texts(state.get("config_folders"))

    @property
    def timestamp(self) -> str:
        """The run's timestamp, which is a part of file names.

        Raises:
            UserError: it cannot be one.
        """
        return require_component("timestamp", self.args.get("timestamp"), self.origin)

    def choices(self) -> list[str]:
        """The options of groups that the run was started with, as overrides."""
        return [
            f"{typed.key}={typed.value}"
            for typed in self._typed
            if typed.key in (*GROUPS, *_PRESETS)
            and typed.package is None
            and isinstance(typed.value, str)
            and _OPTION.fullmatch(typed.value)
        ]

    def not_taken(self, keys: Collection[str]) -> tuple[str, ...]:
        """Overrides that the run was started with, no file may set, and that set none of `keys`."""
        return tuple(
            redacted(t.text)
            for t in self._typed
            if t.key.partition(".")[0] in NOT_STORED and t.key not in (*OF_ONE_COMMAND, *keys)
        )

    def overrides(self, command: Arguments, fork: bool = False) -> tuple[list[str], frozenset[str]]:
        """What makes `command` run what the file's run was, and the keys whose values it sets.

        A fork may choose another option of a group: nothing then applies of what the file says of
        the old one. What its benchmark was stays, also where it followed from another key.

        Raises:
            UserError: an option is not there, or a class is named that may not be.
        """
        choices = self.choices()
        today = self._today(choices, command)
        values = dict(self._values(today.values, command))
        deletions = list(self._deletions(today.values))
        if fork:
            now = self._today([*choices, *_chosen(command)], command)
            anew = set(self._chosen_anew(today, now, command))
            values = {
                key: value
                for key, value in {**dict(self._fixed(now.raw, command)), **values}.items()
                if not is_within(key, anew)
            }
            deletions = [text for text in deletions if not is_within(text[1:], anew)]
        trust = _Trust(self.origin, command, self._folders)
        for key, value in values.items():
            trust.check(key, value)
        pins = [f"++{key}={quoted(value)}" for key, value in values.items()]
        return [*choices, *deletions, *pins], frozenset(values)

    def _today(self, choices: Sequence[str], command: Arguments) -> _Composed:
        """What the file's choices give with the configuration files of today."""
        from perdure.config.error_messages import explain

        try:
            config, options = compose_with_options(*command.search_path, *choices, "timestamp=now")
            raw: Any = OmegaConf.to_container(config, resolve=False)
            values: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        except Exception as error:  # an option that is not there, in Hydra's many ways
            raise UserError(f"{self.origin}: {explain(error)}{_advice(self._folders)}") from error
        return _Composed(dict(values), dict(raw), options)

    def _chosen_anew(self, today: _Composed, now: _Composed, command: Arguments) -> Iterator[str]:
        """Where the groups stand of which `command` chooses another option or class."""
        for group, place in _PLACES.items():
            typed = command.value(f"{place}.{_TARGET}")
            is_other = typed not in (None, _lookup(self.args, f"{place}.{_TARGET}")[0])
            if is_other or today.options.get(group) != now.options.get(group):
                yield place

    def _fixed(self, raw: Mapping[str, Any], command: Arguments) -> Iterator[tuple[str, Any]]:
        """Keys of the benchmark that follow from others (`dataset.seed`), as they were."""
        for key, value in leaves(self.args.get("dataset"), "dataset"):
            written = _lookup(raw, key)[0]
            follows = isinstance(written, str) and "${" in written
            if follows and is_within(key, BENCHMARK) and not command.sets(key):
                yield key, value

    def _values(self, today: Mapping[str, Any], command: Arguments) -> Iterator[tuple[str, Any]]:
        """Keys that were typed then or are otherwise today, and are not typed now; their values."""
        typed = [t.key for t in self._typed if not (t.deletes or t.is_sweep or t.key in GROUPS)]
        for name in (*GROUPS, *_KEYS):
            for key, value in leaves(self.args[name], name) if name in self.args else ():
                known, is_there = _lookup(today, key)
                is_typed = any(key == t or key.startswith(f"{t}.") for t in typed)
                differs = not is_there or listed(known) != listed(value)
                if (is_typed or (differs and not is_free(key))) and not command.sets(key):
                    yield key, value

    def _deletions(self, today: Mapping[str, Any]) -> Iterator[str]:
        """Keys that were taken away then and are there today."""
        for typed in self._typed:
            is_ours = typed.key.startswith(tuple(f"{group}." for group in GROUPS))
            is_there, was_there = _lookup(today, typed.key)[1], _lookup(self.args, typed.key)[1]
            if typed.deletes and is_ours and is_there and not was_there:
                yield f"~{typed.key}"


@dataclass(frozen=True)
class _Composed:
    """A configuration of today: resolved, as its files write it, and the options of its groups."""

    values: dict[str, Any]
    raw: dict[str, Any]
    options: Mapping[str, Any]


def _chosen(command: Arguments) -> list[str]:
    """The options of groups that `command` chooses."""
    return [
        t.text
        for t in command.overrides
        if t.key in (*GROUPS, *_PRESETS, "local", "debug") and t.package is None and not t.is_sweep
    ]


class _Trust:
    """Which classes a file may name: `origin` is the file, `remembered` its run's folders."""

    def __init__(self, origin: str, command: Arguments, remembered: Sequence[str]) -> None:
        self.origin = origin
        self._remembered = remembered
        self._allowed = _texts(command.value("checkpoint.allow"))
        self._command = command
        self._named: Mapping[str, Collection[str]] | None = None

    def check(self, key: str, value: Any) -> None:
        """Refuse a class at `key`, or anywhere in a value that is a list or a mapping.

        Raises:
            UserError: names the class, the key, and what to add.
        """
        if key.rpartition(".")[2] == _TARGET:
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
            f"{_advice(self._remembered)}"
        )


def classes_to_allow(config: Mapping[str, Any], command: Arguments) -> list[str]:
    """The classes in `config` that its checkpoint could not name by itself later on."""
    trust = _Trust("", command, ())
    named = [(f"{key}.{_TARGET}", str(node[_TARGET])) for key, node in nodes(config)]
    return list(dict.fromkeys(target for key, target in named if not trust.is_trusted(key, target)))


def location_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Keys of parameters that are paths, addresses or references by their annotated type."""
    for group, node in nodes(config):
        with suppress(UserError):  # a class that is not there: who builds it says so
            yield from (f"{group}.{name}" for name in locations(locate(node[_TARGET], group)))


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
            value = _lookup(config, key)[0]
            raise UserError(
                f"{key}={value}: a path or an address that {origin} names is not used; type it, "
                f"or add checkpoint.allow=[{key}] if you trust it"
            )


def nodes(value: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, mapping) of each part of a configuration that names a class."""
    if isinstance(value, Mapping):
        if isinstance(value.get(_TARGET), str):
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
                found[_group_of(f"{key}.{_TARGET}")].add(node[_TARGET])
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
    found = locate(target, key.removesuffix(f".{_TARGET}"))
    # Functions, and what a module there has only imported, are not meant.
    return inspect.isclass(found) and found.__module__.startswith(("perdure.", "torch.optim."))


def _advice(folders: Sequence[str]) -> str:
    named = " ".join(f"--config-dir={folder}" for folder in folders)
    return f" (the run was started with {named})" if named else ""


def _lookup(tree: Any, key: str) -> tuple[Any, bool]:
    """The value at a dotted key, and whether there is one."""
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return None, False
        tree = tree[name]
    return tree, True


def _texts(value: Any) -> list[str]:
    """The strings in a list; one string is a list of one."""
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else []


def _is_plain(value: Any) -> bool:
    """Whether it is of numbers, text, lists and mappings only, and of a configuration's size."""
    budget = [_MOST_VALUES]

    def check(inner: Any, depth: int) -> bool:
        budget[0] -= 1
        if budget[0] < 0 or depth > _DEEPEST:
            return False
        if isinstance(inner, Mapping):
            return all(
                isinstance(k, str | int) and k != "" and check(v, depth + 1)
                for k, v in inner.items()
            )
        if isinstance(inner, list | tuple):
            return all(check(v, depth + 1) for v in inner)
        return inner is None or isinstance(inner, str | int | float)

    return check(value, 0)
