"""Hydra's and OmegaConf's errors, said in one sentence with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from perdure.config.benchmark import PARTS
from perdure.config.folder import SHARED
from perdure.config.suggestions import did_you_mean, nearest, spelled
from perdure.errors import UserError

_NO_KEY = re.compile(r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in")
_FULL_KEY = re.compile(r"full_key: (\S+)")
_SEVERAL = re.compile(r"Ambiguous value for argument '(.+)'")
_NO_NULL = re.compile(r"field '\S+' is not Optional")
_WRAPPED = re.compile(r"UserError raised while resolving interpolation: (.+)")


def explain(error: BaseException, words: Sequence[str] = ()) -> str:
    """One sentence: what is wrong, where, and what would be accepted.

    Args:
        error: Hydra's, OmegaConf's, the system's or ours.
        words: the command line, whose choices say which keys there are.
    """
    if isinstance(error, UserError):
        return str(error)
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    if wrapped := _WRAPPED.match(_first_line(error)):
        return wrapped[1]
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, OSError):
        return f"{error.filename}: cannot write there ({error.strerror})"
    if isinstance(error, OverrideParseException):
        write = spelled(str(error.override)) or "key=value"
        return f"{error.override}: cannot be read as an override; write {write}"
    return _unknown_key(error, words) or _value(error, chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    if missing.startswith("experiment/"):
        return _unknown_experiment(missing.removeprefix("experiment/"))
    group, _, option = missing.rpartition("/")
    options = sorted({*(error.options or ())} - {SHARED})
    if not group or not options:
        return _first_line(error)
    return f"{group}={option}: there is no such {group}{nearest(option, options)}; choose " + (
        ", ".join(options)
    )


def _unknown_experiment(name: str) -> str:
    from perdure.config.published import published

    if name in published.settings:
        setting = published.settings[name]
        return (
            f"experiment={name}: cannot be run: its hyperparameters, its method "
            f"({setting.row.method}) or its benchmark ({setting.benchmark.dataset}) are not part "
            "of this version"
        )
    near = nearest(name, [n for n, s in published.settings.items() if published.is_runnable(s)])
    return (
        f"experiment={name}: there is no such published setting{near}; perdure published lists all"
    )


def _unknown_key(error: BaseException, words: Sequence[str]) -> str | None:
    match = _NO_KEY.search(str(error))
    if match is None:
        return None
    full = _FULL_KEY.search(str(error))
    key = (match[1] or (full[1] if full else match[2])).partition("@")[0]
    if key in PARTS:
        return f"{key}: the file of this option must begin with the line # @package dataset.{key}"
    near = did_you_mean(key, words)
    return f"{key}: there is no such key{near}; perdure train --cfg job lists all"


def _value(error: BaseException, chain: list[BaseException]) -> str:
    """A value of the wrong type, or anything else: the first line says it, the key is added."""
    omegaconf_errors: list[BaseException] = [
        e for e in chain if isinstance(e, OmegaConfBaseException)
    ] or [error]
    line, full = _first_line(omegaconf_errors[0]), _FULL_KEY.search("\n".join(map(str, chain)))
    key = getattr(omegaconf_errors[0], "full_key", None) or (full[1] if full else None)
    if several := _SEVERAL.match(line):
        return f"{several[1]}: holds several values; give one, a list as [a,b], or sweep with -m"
    if key and _NO_NULL.match(line):
        return f"{key}=null: must have a value"
    return f"{key}: {line}" if key and key not in line else line


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else type(error).__name__
