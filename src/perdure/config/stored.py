"""The configuration stored in a checkpoint, taken as data: what of it may shape a run.

A file may choose among the options that the configuration folders of this command line have, and
set values of the groups that describe a run. It names no class that nobody here has named, no path
and no address, and nothing that says where or what is written. Stored `${…}` are literal text.
Whatever else it holds is not taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from perdure.config.benchmark import PARTS
from perdure.config.compare import BENCHMARK, is_free, is_within, listed
from perdure.config.compose import compose_with_options
from perdure.config.overrides import Arguments, leaves, parse, quoted
from perdure.config.protocol import MARK, marked
from perdure.config.trust import TARGET, Trust, advice, lookup, texts
from perdure.config.validation import require_component
from perdure.errors import UserError
from perdure.io.redaction import redacted

GROUPS = (
    "model",
    "addon",
    "dataset",
    "buffer",
    "backbone",
    "head",
    "optimizer",
    "scheduler",
    "training",
)
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
_KEYS = ("seed", "deterministic", "device", "threads", "recipe", "budget", "evaluation")
_OPTION = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*")
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
        self._typed = [parse(text) for text in texts(state.get("overrides"))]
        self._folders = texts(state.get("config_folders"))

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
        if values or not all(is_free(typed.key) for typed in command.overrides):
            values |= self._published_then(today.published, command)
        deletions = list(self._deletions(today.values))
        if fork:
            now = self._today([*choices, *_chosen(command)], command)
            anew = set(self._chosen_anew(today, now, command))
            values = dict(self._fixed(now.raw, command)) | {
                key: value for key, value in values.items() if not self._follows(now.raw, key)
            }
            values = {key: value for key, value in values.items() if not is_within(key, anew)}
            deletions = [text for text in deletions if not is_within(text[1:], anew)]
        trust = Trust(self.origin, command, self._folders)
        for key, value in values.items():
            trust.check(key, value)
        pins = [f"++{key}={quoted(value)}" for key, value in values.items()]
        return [*choices, *deletions, *pins], frozenset(values)

    def _today(self, choices: Sequence[str], command: Arguments) -> _Composed:
        """What the file's choices give with the configuration files of today."""
        from perdure.config.error_messages import explain

        try:
            config, options = compose_with_options(*command.search_path, *choices, "timestamp=now")
            published = tuple(marked(config))
            raw: Any = OmegaConf.to_container(config, resolve=False)
            values: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        except Exception as error:  # an option that is not there, in Hydra's many ways
            raise UserError(f"{self.origin}: {explain(error)}{advice(self._folders)}") from error
        return _Composed(dict(values), dict(raw), options, published)

    def _chosen_anew(self, today: _Composed, now: _Composed, command: Arguments) -> Iterator[str]:
        """Where the groups stand of which `command` chooses another option or class."""
        for group, place in _PLACES.items():
            typed = command.value(f"{place}.{TARGET}")
            is_other = typed not in (None, lookup(self.args, f"{place}.{TARGET}")[0])
            if is_other or today.options.get(group) != now.options.get(group):
                yield place

    def _fixed(self, raw: Mapping[str, Any], command: Arguments) -> Iterator[tuple[str, Any]]:
        """Keys of the benchmark that follow from others (`dataset.seed`), as they were."""
        for key, value in leaves(self.args.get("dataset"), "dataset"):
            is_fixed = is_within(key, BENCHMARK) and self._follows(raw, key)
            if is_fixed and not command.sets(key):
                yield key, value

    def _follows(self, raw: Mapping[str, Any], key: str) -> bool:
        """Whether `key` follows from others (`scheduler.T_max`) where nobody typed it."""
        written = str(lookup(raw, key)[0])
        typed = [t.key for t in self._typed if not (t.deletes or t.key in _PLACES)]
        was_typed = is_within(key, typed)
        return "${" in written and not written.startswith(MARK) and not was_typed

    def _values(self, today: Mapping[str, Any], command: Arguments) -> Iterator[tuple[str, Any]]:
        """Keys that were typed then or are otherwise today, and are not typed now; their values."""
        typed = [t.key for t in self._typed if not (t.deletes or t.is_sweep or t.key in GROUPS)]
        for name in (*GROUPS, *_KEYS):
            for key, value in leaves(self.args[name], name) if name in self.args else ():
                known, is_there = lookup(today, key)
                is_typed = any(key == t or key.startswith(f"{t}.") for t in typed)
                differs = not is_there or listed(known) != listed(value)
                if (is_typed or (differs and not is_free(key))) and not command.sets(key):
                    yield key, value

    def _published_then(self, published: Sequence[str], command: Arguments) -> dict[str, Any]:
        """What published settings gave, or would give today: that depends on all the rest.

        What one optimizer had is not for another that `command` chooses.
        """
        chosen = {typed.key for typed in command.overrides}
        found = {}
        for key in published:
            value, was_there = lookup(self.args, key)
            if was_there and key.partition(".")[0] not in chosen and not command.sets(key):
                found[key] = value
        return found

    def _deletions(self, today: Mapping[str, Any]) -> Iterator[str]:
        """Keys that were taken away then and are there today."""
        for typed in self._typed:
            is_ours = typed.key.startswith(tuple(f"{group}." for group in GROUPS))
            is_there, was_there = lookup(today, typed.key)[1], lookup(self.args, typed.key)[1]
            if typed.deletes and is_ours and is_there and not was_there:
                yield f"~{typed.key}"


@dataclass(frozen=True)
class _Composed:
    """A configuration of today.

    Attributes:
        values: resolved.
        raw: as its files write it.
        options: the option of each group.
        published: keys that have a published value, or would have it.
    """

    values: dict[str, Any]
    raw: dict[str, Any]
    options: Mapping[str, Any]
    published: Sequence[str]


def _chosen(command: Arguments) -> list[str]:
    """The options of groups that `command` chooses."""
    return [
        t.text
        for t in command.overrides
        if t.key in (*GROUPS, *_PRESETS, "local", "debug") and t.package is None and not t.is_sweep
    ]


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
