"""Colors as people see them: contrast after WCAG 2.2, and order by lightness alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tracking.colors import (
    COLOR_SCALE,
    LINE_SCALE,
    PAGE,
    PAPER,
    accuracy_color,
    between,
    css,
    hexadecimal,
    text_color,
)


def luminance(color: tuple[float, ...]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@given(st.floats(0, 1))
def test_numbers_are_readable_on_every_color(fraction: float) -> None:
    background = accuracy_color(fraction)
    light = luminance(background)
    black = (light + 0.05) / (luminance((17 / 255,) * 3) + 0.05)
    white = 1.05 / (light + 0.05)
    chosen, other = (black, white) if text_color(background) == "#111" else (white, black)
    assert chosen >= other
    assert chosen >= 4.2


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_accuracy_is_never_lighter(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert luminance(accuracy_color(low)) >= luminance(accuracy_color(high)) - 1e-9


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_line_of_a_later_task_is_never_darker_and_none_is_lost_on_white(
    a: float, b: float
) -> None:
    early, late = (luminance(between(LINE_SCALE, part)) for part in sorted([a, b]))
    assert early <= late + 1e-9
    assert 1.05 / (late + 0.05) >= 3  # WCAG 2.2, 1.4.11: parts of graphics


@pytest.mark.parametrize(
    ("fraction", "color"),
    [(-1.0, COLOR_SCALE[0]), (0.0, COLOR_SCALE[0]), (0.5, COLOR_SCALE[2]), (1.0, COLOR_SCALE[-1]),
     (2.0, COLOR_SCALE[-1]), (math.nan, COLOR_SCALE[0])],
    ids=str,
)  # fmt: skip
def test_the_ends_of_the_scale(fraction: float, color: tuple[float, ...]) -> None:
    assert accuracy_color(fraction) == pytest.approx(color)


def test_colors_as_texts() -> None:
    assert css((0.0, 0.5, 1.0)) == "rgb(0 128 255)"
    assert hexadecimal((0.0, 0.5, 1.0)) == "#0080ff"
    assert PAPER.line(0) == hexadecimal(LINE_SCALE[0])
    assert PAGE.line(1) == (
        f"color-mix(in oklab, {hexadecimal(LINE_SCALE[-1])}, white var(--lift))"
    )
