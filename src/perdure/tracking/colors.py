"""The color scale (colormap) of accuracies, shared by the heatmap and the report."""

from __future__ import annotations

Color = tuple[float, float, float]
"""Red, green, blue, each in [0, 1]."""

COLOR_SCALE: tuple[Color, ...] = (
    (0.965, 0.915, 0.800),
    (0.925, 0.800, 0.560),
    (0.560, 0.775, 0.640),
    (0.160, 0.560, 0.600),
    (0.075, 0.290, 0.420),
)
"""From accuracy 0 to 1 at equal distances; lightness falls steadily, so it survives gray print."""


def accuracy_color(fraction: float) -> Color:
    """The color of an accuracy in [0, 1]; values outside are held at the ends, NaN at 0."""
    position = min(max(0.0, fraction), 1.0) * (len(COLOR_SCALE) - 1)
    low = min(int(position), len(COLOR_SCALE) - 2)
    share = position - low
    first, second = COLOR_SCALE[low], COLOR_SCALE[low + 1]
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return red, green, blue


def text_color(background: Color) -> str:
    """`#111` or `#fff`, whichever has the higher contrast on `background` (WCAG 2 luminance)."""
    red, green, blue = (_linear(part) for part in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#111" if (luminance + 0.05) ** 2 > 0.0557 * 1.05 else "#fff"


def css(color: Color) -> str:
    """`rgb(19 74 107)`."""
    return f"rgb({' '.join(str(round(255 * part)) for part in color)})"


def _linear(part: float) -> float:
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
