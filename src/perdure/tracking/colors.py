"""One colour scale for accuracies, shared by the picture and the report."""

from __future__ import annotations

Colour = tuple[float, float, float]
"""Red, green, blue, each in [0, 1]."""

RAMP: tuple[Colour, ...] = (
    (0.965, 0.915, 0.800),
    (0.925, 0.800, 0.560),
    (0.560, 0.775, 0.640),
    (0.160, 0.560, 0.600),
    (0.075, 0.290, 0.420),
)
"""From accuracy 0 to 1 at equal distances; lightness falls steadily, so it survives grey print."""


def ramp(fraction: float) -> Colour:
    """The colour of an accuracy in [0, 1]; values outside are held at the ends, NaN at 0."""
    position = min(max(0.0, fraction), 1.0) * (len(RAMP) - 1)
    low = min(int(position), len(RAMP) - 2)
    share = position - low
    first, second = RAMP[low], RAMP[low + 1]
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ink(background: Colour) -> str:
    """`#111` or `#fff`, whichever has the higher contrast on `background` (WCAG 2 luminance)."""
    red, green, blue = (_linear(part) for part in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#111" if (luminance + 0.05) ** 2 > 0.0557 * 1.05 else "#fff"


def css(colour: Colour) -> str:
    """`rgb(19 74 107)`."""
    return f"rgb({' '.join(str(round(255 * part)) for part in colour)})"


def _linear(part: float) -> float:
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
