"""Checks of a method's hyperparameters: a value out of range is one sentence."""

from __future__ import annotations

from perdure.errors import UserError


def at_least(least: float, /, *, group: str = "model", **options: float) -> None:
    """Refuse values below `least`, and those that are infinite or NaN.

    Raises:
        UserError: names the first of them as a key of the configuration, `<group>.<name>=<value>`.
    """
    for key, value in options.items():
        if not least <= value < float("inf"):
            raise UserError(f"{group}.{key}={value}: out of range; must be {least:g} or more")


def above(bound: float, /, *, group: str = "model", **options: float) -> None:
    """Refuse values that are not above `bound`, and those that are infinite or NaN.

    Raises:
        UserError: names the first of them as `at_least` does.
    """
    for key, value in options.items():
        if not bound < value < float("inf"):
            raise UserError(f"{group}.{key}={value}: out of range; must be above {bound:g}")
