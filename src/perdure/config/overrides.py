"""The command line as typed: Hydra's flags, the overrides, the folders of configuration files.

Nothing here imports torch.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from perdure.config.folder import CONF, options
from perdure.errors import UserError

_SEARCHPATH = "hydra.searchpath"
_NULL_BY_DEFAULT = ("experiment", "search", "debug", "source", "scenario", "transform")


@dataclass(frozen=True)
class Typed:
    """One override on the command line.

    Attributes:
        text: as it stands there.
        key: what it sets, without `+`, `++`, `~` and without a package.
        override: parsed; None where Hydra's grammar does not take it.
    """

    text: str
    key: str
    override: Override | None

    @property
    def value(self) -> Any:
        """What it sets the key to, as plain data; a sweep and what cannot be parsed as text."""
        if self.override is None or self.is_sweep:
            return self.text.partition("=")[2].strip("'\"")
        return self.override.value()

    @property
    def is_sweep(self) -> bool:
        """Whether it gives several values, one a run."""
        return self.override is not None and self.override.is_sweep_override()

    @property
    def deletes(self) -> bool:
        """Whether it takes the key away (`~key`)."""
        return self.override is not None and self.override.is_delete()

    @property
    def package(self) -> str | None:
        """The package that a group choice names (`group@package=option`)."""
        return None if self.override is None else self.override.package


@dataclass(frozen=True)
class Arguments:
    """A command line without the program's name."""

    words: tuple[str, ...]

    @cached_property
    def _parsed(self) -> Any:
        known, rest = get_args_parser().parse_known_args(list(self.words))
        known.overrides = [*known.overrides, *(word for word in rest if not word.startswith("-"))]
        return known

    @cached_property
    def overrides(self) -> tuple[Typed, ...]:
        """The overrides, in the order in which they apply."""
        return tuple(map(parse, self._parsed.overrides))

    @property
    def flags(self) -> list[str]:
        """Hydra's flags with their values; they must stand before all overrides."""
        rest = [typed.text for typed in self.overrides]
        return [word for word in self.words if not (rest and word == rest[0] and rest.pop(0))]

    @property
    def is_sweep(self) -> bool:
        """Whether the command is a sweep (`-m`)."""
        return bool(self._parsed.multirun)

    @property
    def only_shows(self) -> bool:
        """Whether the configuration is shown instead of run."""
        known = self._parsed
        shows = (known.help, known.hydra_help, known.cfg, known.info, known.shell_completion)
        return any(shows)

    @property
    def config_dir(self) -> str | None:
        """The folder of `--config-dir`, absolute."""
        folder = self._parsed.config_dir
        return os.path.abspath(folder) if folder else None

    @property
    def config_flags(self) -> list[str]:
        """Hydra's flags for the location of configuration files, in full."""
        names = ("config_path", "config_name", "config_dir")
        given = {name: getattr(self._parsed, name) for name in names}
        return [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if value]

    @property
    def config_folders(self) -> tuple[str, ...]:
        """Folders of configuration files named here, absolute: `--config-dir` and searchpath."""
        found = [self.config_dir] if self.config_dir else []
        path = self.value(_SEARCHPATH)
        for entry in path if isinstance(path, list) else ():
            if str(entry).startswith("file://"):
                found.append(str(entry).removeprefix("file://"))
        return tuple(os.path.abspath(folder) for folder in found)

    @property
    def config_packages(self) -> tuple[str, ...]:
        """Python packages of configuration files named here (`pkg://…` in searchpath)."""
        path = self.value(_SEARCHPATH)
        entries = map(str, path) if isinstance(path, list) else ()
        return tuple(e.removeprefix("pkg://") for e in entries if e.startswith("pkg://"))

    @property
    def search_path(self) -> tuple[str, ...]:
        """Overrides with which Hydra's compose finds the configuration files named here."""
        path = self.value(_SEARCHPATH)
        entries = list(map(str, path)) if isinstance(path, list) else []
        if self.config_dir:
            entries.insert(0, f"file://{self.config_dir}")
        return (f"{_SEARCHPATH}={quoted(entries)}",) if entries else ()

    def value(self, key: str, default: Any = None) -> Any:
        """What `key` was set to last, as plain data; `default` where it was not."""
        found = [typed for typed in self.overrides if typed.key == key and not typed.deletes]
        return found[-1].value if found else default

    def sets(self, key: str) -> bool:
        """Whether `key` itself, or a key above it, is set to a value here."""
        return any(
            key == typed.key or (key.startswith(f"{typed.key}.") and isinstance(typed.value, dict))
            for typed in self.overrides
        )


def parse(text: str) -> Typed:
    """One override, whatever it looks like."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return Typed(text, text.lstrip("+~").partition("=")[0], None)
    return Typed(text, override.key_or_group, override)


_ORDER = "order"


def readable(text: str) -> str:
    """The word `text` as Hydra takes it.

    `key=choice(null,1)` is `key=null,1`, `~` the home, and `order=…` short for `dataset.seed=…`,
    which class orders are drawn from.
    """
    if text.startswith(f"{_ORDER}="):
        text = f"dataset.seed={text.partition('=')[2]}"
    if text.startswith("--config-dir=~"):
        return f"--config-dir={os.path.expanduser(text.partition('=')[2])}"
    found = re.fullmatch(r"([^=]+)=\s*choice\((.*)\)\s*", text)
    if found is None or parse(text).override is not None:
        return text
    plain = f"{found[1]}={found[2]}"
    return plain if parse(plain).is_sweep else text


def without_null_choices(words: Iterable[str]) -> list[str]:
    """`words` without `experiment=null` and the like, which choose what is chosen anyway.

    Raises:
        UserError: a group that needs an option is set to null.
    """
    kept = []
    for word in words:
        key, _, value = word.partition("=")
        is_null = value.strip().lower() == "null"
        if is_null and key not in _NULL_BY_DEFAULT and (CONF / key).is_dir():
            raise UserError(f"{word}: must be {', '.join(options(key))}")
        if not (is_null and key in _NULL_BY_DEFAULT):
            kept.append(word)
    return kept


def program() -> str:
    """How this program was started, for the commands that messages show."""
    name = sys.argv[0]
    return name if name.startswith("perdure ") else f"python {os.path.basename(name) or 'train.py'}"


# --- values in the grammar of overrides -----------------------------------------------------------


def quoted(value: Any) -> str:
    """A plain value in the grammar of Hydra's overrides; text comes out as it is, `${…}` too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{quoted(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str):
        return _quoted_text(_literal(value))
    return repr(value)


def override(key: str, text: str) -> str:
    """`key=text` as a person would type it, in quotes only where Hydra would read it otherwise."""
    plain = f"{key}={text}"
    typed = parse(plain)
    is_same = typed.override is not None and typed.value == text and "${" not in text
    return plain if is_same and not typed.is_sweep else f"{key}={quoted(text)}"


def _literal(text: str) -> str:
    """What OmegaConf reads as `text`: a backslash before `${` escapes it, two are one."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def _quoted_text(text: str) -> str:
    """In single quotes, where Hydra takes backslashes for escapes only before a quote."""
    inner = re.sub(
        r"(\\*)'|(\\+)\Z", lambda match: match[2] * 2 if match[2] else match[1] * 2 + r"\'", text
    )
    return f"'{inner}'"


def leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything below `value` that overrides can name by a key of its own."""
    if isinstance(value, Mapping) and value and all(map(_is_name, value)):
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}")
    else:
        yield prefix, value


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and re.fullmatch(r"[A-Za-z_][\w-]*", key) is not None
