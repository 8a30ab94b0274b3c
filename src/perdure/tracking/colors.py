"""Colors of figures and report: the scale (colormap) of accuracies, lines of tasks, two themes.

Both scales change steadily in lightness and run from blue to yellow, so that they are told apart
with every kind of color blindness and in gray print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


LINE_SCALE: tuple[Color, ...] = (
    (0.130, 0.100, 0.430),
    (0.120, 0.250, 0.580),
    (0.100, 0.420, 0.560),
    (0.330, 0.520, 0.400),
    (0.700, 0.520, 0.080),
)
"""From the first task's line to the last one's; the lightest still stands out on white."""

GROUP_COLORS = ("#0072b2", "#d55e00", "#009e73", "#aa4f8b", "#c98500", "#3d9fd6", "#4d4d4d")
"""Colors of groups of runs: those of Okabe and Ito (2008), which readers with color blindness tell
apart; purple, orange and blue are darker here, so that thin lines stand out on white, and their
yellow, which does not, is gray."""


@dataclass(frozen=True)
class Theme:
    """What a figure is drawn with; CSS colors, which only SVG inside a page may leave open."""

    text: str
    muted: str
    edge: str
    accent: str
    lift: str = ""
    """CSS percentage of white that is mixed into lines, which a dark page sets."""

    def line(self, part: float) -> str:
        """The color of the line at `part` of the way from the first task (0) to the last (1)."""
        return self._lifted(hexadecimal(between(LINE_SCALE, part)))

    def group(self, index: int) -> str:
        """The color of the group of runs number `index`; beyond GROUP_COLORS they come again."""
        return self._lifted(GROUP_COLORS[index % len(GROUP_COLORS)])

    def _lifted(self, color: str) -> str:
        return f"color-mix(in oklab, {color}, white {self.lift})" if self.lift else color


PAPER = Theme("#1d2327", "#5b6770", "#dcd8ce", "#12708a")
"""Files on white."""
PAGE = Theme("var(--text)", "var(--muted)", "var(--edge)", "var(--accent)", "var(--lift)")
"""The report, light or dark (html.py)."""


def between(scale: Sequence[Color], position: float) -> Color:
    """The color at `position` in [0, 1] of `scale`; values outside are held at its ends."""
    position = min(max(0.0, position), 1.0) * (len(scale) - 1)
    low = min(int(position), len(scale) - 2)
    share = position - low
    red, green, blue = (
        a + share * (b - a) for a, b in zip(scale[low], scale[low + 1], strict=True)
    )
    return red, green, blue


def accuracy_color(fraction: float) -> Color:
    """The color of an accuracy in [0, 1]; values outside are held at the ends, NaN at 0."""
    return between(COLOR_SCALE, fraction)


def hexadecimal(color: Color) -> str:
    """`#134a6b`."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in color)


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
