"""The space of a method: the hyperparameters to search, from `search/spaces/<method>.yaml`.

Such a file lies in `conf/` or in a `--config-dir`, where one of the same name comes first. It has
the package `hydra.sweeper.params`, so a grid sweep of Hydra can take it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.cli.search_space import DEFAULT
from perdure.config import yaml_data
from perdure.config.folder import CONF
from perdure.config.overrides import Typed, parse, quoted
from perdure.errors import UserError

FOLDER = "search/spaces"
"""Where the files lie, below a folder of configuration files."""

OWN = "default"
"""`search=default` asks for the method's space."""

_SEARCH = "search"
_RATE = "optimizer.lr"
_USUAL = "sgd"  # conf/train.yaml; the spaces of conf/ are for it
_FIXED = (
    "dataset",
    "dataset.validation",
    "model",
    "on",
    "score",
    "seed",
    "recipe",
    _SEARCH,
)


@dataclass(frozen=True)
class Asked:
    """The words of a search, and whether they ask for the method's space.

    Attributes:
        words: all but `search=…`.
        own: whether `search=default` was typed; None where nothing was.
    """

    words: tuple[str, ...]
    own: bool | None


def asked(words: Sequence[str]) -> Asked:
    """Take `search=…` out of `words`.

    Raises:
        UserError: it is neither default nor null, or stands there twice.
    """
    found = [word for word in words if parse(word).key.partition("/")[0] == _SEARCH]
    for word in found:
        typed = parse(word)
        if typed.key != _SEARCH or typed.value not in (OWN, None) or len(found) > 1:
            raise UserError(
                f"{word}: must be {OWN}, the space of the method, or null, once; "
                "what searches with Optuna is for perdure train -m"
            )
    rest = tuple(word for word in words if word not in found)
    return Asked(rest, parse(found[0]).value == OWN if found else None)


def methods_of(words: Sequence[str]) -> list[str]:
    """The methods that `model=…` names, each once: options of the group `model`.

    Raises:
        UserError: it is there twice, deletes, or names methods that cannot be listed.
    """
    found = [each for each in map(parse, words) if each.key == "model"]
    if not found:
        return []
    typed = found[0]
    if len(found) > 1 or typed.deletes or typed.package:
        raise UserError(f"{found[-1].text}: must be model=NAME, or model=NAME,NAME, once")
    if not typed.is_sweep:
        return [str(typed.value)]
    override: Any = typed.override
    if not override.is_discrete_sweep() or "GLOB" in override.value_type.name:
        raise UserError(f"{typed.text}: must name the methods, as model=er,derpp")
    return list(dict.fromkeys(override.sweep_string_iterator()))


def for_method(method: str, words: Sequence[str]) -> list[str]:
    """The words of a search of `method` alone, in a command that names several methods."""
    alone = [f"model={method}" if parse(word).key == "model" else word for word in words]
    has_search = any(parse(word).key == _SEARCH for word in words)
    return alone if has_search else [*alone, f"{_SEARCH}={OWN}"]


def with_own_space(words: Sequence[str], folders: Iterable[Path]) -> tuple[list[str], bool]:
    """`words` with the space of the method that they name; a key that is typed replaces its axis.

    Args:
        words: overrides; one of them `model=NAME`.
        folders: of configuration files, besides `conf/`; the first that has a file counts.

    Returns:
        The words, and whether the method has a space: else it gets the learning rates of `DEFAULT`.

    Raises:
        UserError: no single method is named, its file is no space, or its learning rates would
            reach another optimizer than they were chosen for.
    """
    methods = methods_of(words)
    if len(methods) != 1:
        raise UserError(f"{_SEARCH}={OWN}: is the space of one method; must come with model=NAME")
    path = _file(methods[0], folders)
    space = [DEFAULT] if path is None else read(path)
    typed = [parse(word) for word in words]
    kept = [word for word in space if parse(word).key not in {each.key for each in typed}]
    _require_optimizer(typed, space, kept)
    return [*words, *kept], path is not None


def read(path: Path) -> list[str]:
    """The overrides in a file of a space, in its order.

    Raises:
        UserError: it cannot be read, or holds what is no override, or what the search sets.
    """
    words = []
    for key, value in yaml_data.config(path.resolve()).items():
        text = value if isinstance(value, str) else quoted(value)
        typed = parse(f"{key}={text}")
        if isinstance(value, dict | list) or typed.override is None or typed.key != key:
            raise UserError(
                f"{path}: {key}: must be a key with its values in Hydra's sweep syntax, "
                f"as in {DEFAULT.replace('=', ': ')}"
            )
        if key in _FIXED or key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{path}: {key}: is no hyperparameter; must be left out of a space")
        words.append(typed.text)
    return words


def _file(method: str, folders: Iterable[Path]) -> Path | None:
    for folder in (*folders, CONF):
        path = folder / FOLDER / f"{method}.yaml"
        if path.is_file():
            return path
    return None


def _require_optimizer(typed: Sequence[Typed], space: Sequence[str], kept: Sequence[str]) -> None:
    """Refuse learning rates chosen for one optimizer beside another one."""
    chosen = next((each for each in typed if each.key == "optimizer"), None)
    values = {each.key: each.value for each in map(parse, space)}
    rates = [word for word in kept if parse(word).key == _RATE]
    if chosen is not None and rates and chosen.value != values.get("optimizer", _USUAL):
        raise UserError(
            f"{chosen.text}: {rates[0]} of the space is for another optimizer; must come with "
            f"{_RATE}=… of its own"
        )
