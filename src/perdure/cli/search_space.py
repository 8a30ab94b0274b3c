"""A space of hyperparameters: overrides with several values (Hydra's sweeps), and its points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perdure.config.overrides import Typed, parse
from perdure.errors import UserError

DEFAULT = "optimizer.lr=0.01,0.03,0.1,0.3"
"""The space where no word has several values."""


@dataclass(frozen=True)
class Point:
    """One choice of all values.

    Attributes:
        number: its place in the grid, in which the last key changes fastest.
        words: the overrides that set the values.
        values: plain values by key.
    """

    number: int
    words: tuple[str, ...]
    values: dict[str, Any]


@dataclass(frozen=True)
class Space:
    """A grid.

    Attributes:
        fixed: overrides of one value, as typed.
        axes: for each key its overrides, one a value.
    """

    fixed: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]

    @property
    def size(self) -> int:
        """Points of the grid."""
        return math.prod(map(len, self.axes.values()))

    @property
    def values(self) -> dict[str, list[Any]]:
        """Plain values by key."""
        return {key: [_plain(word) for word in words] for key, words in self.axes.items()}

    def point(self, number: int) -> Point:
        """The point at this place of the grid."""
        chosen: dict[str, str] = {}
        rest = number
        for key, words in reversed(self.axes.items()):
            rest, place = divmod(rest, len(words))
            chosen[key] = words[place]
        words = tuple(chosen[key] for key in self.axes)
        return Point(number, words, {key: _plain(chosen[key]) for key in self.axes})

    def draw(self, budget: int, seed: int) -> list[Point]:
        """The whole grid where `budget` is enough, else so many of its points at random.

        They are in the order of the grid.
        """
        if self.size <= budget:
            return list(map(self.point, range(self.size)))
        drawn = np.random.default_rng(seed).choice(self.size, size=budget, replace=False)
        return [self.point(int(number)) for number in sorted(drawn)]


def space_of(words: Sequence[str], fallback: bool = True) -> Space:
    """The space that overrides describe.

    Args:
        words: overrides.
        fallback: whether it is `DEFAULT` where none of them has several values, instead of the one
            point that they fix.

    Raises:
        UserError: a word is no override, gives values that cannot be listed, or sets a key again.
    """
    typed = [parse(word) for word in words]
    if fallback and not any(each.is_sweep for each in typed):
        typed.append(parse(DEFAULT))
    seen: set[str] = set()
    for each in typed:
        if each.key in seen:
            hint = "; give it several values, or give another key several"
            raise UserError(
                f"{each.text}: {each.key} is set already{hint if each.text == DEFAULT else ''}"
            )
        seen.add(each.key)
    axes = {each.key: _values(each) for each in typed if each.is_sweep}
    return Space(tuple(each.text for each in typed if not each.is_sweep), axes)


def _values(typed: Typed) -> tuple[str, ...]:
    """One override for each value of a sweep."""
    override: Any = typed.override
    is_listed = override.is_discrete_sweep() and "GLOB" not in override.value_type.name
    if not is_listed or override.value().shuffle:
        raise UserError(
            f"{typed.text}: its values cannot be listed in order; "
            "must be a list (0.1,0.2), choice(…) or range(…)"
        )
    key = override.get_key_element()
    return tuple(dict.fromkeys(f"{key}={text}" for text in override.sweep_string_iterator()))


def _plain(word: str) -> Any:
    """What an override sets, as JSON can hold it."""
    value = parse(word).value
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else str(value)
