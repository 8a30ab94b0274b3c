"""Where a run is shown: a terminal (colours and one live line), or plain lines for a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import textwrap
from dataclasses import dataclass
from typing import Protocol, TextIO, cast

from perdure.tracking.formatting import FIGURE_WIDTH, Grid

PLAIN_WIDTH = 100
"""Columns of a plain stream when COLUMNS does not say."""
PLAIN_SECONDS = 30.0
LIVE_SECONDS = 0.2
LEAST_BAR, MOST_BAR = 8, 24


class Outlet(io.TextIOBase):
    """A stream that never ends a run: letters it cannot encode become `?`, a lost reader silence.

    A closed pipe (`| head`) or a vanished terminal raises in `write`; training goes on without it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_lost = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding; a stream in memory takes anything."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write and flush `text`, or, once the reader is gone, nothing."""
        if self.is_lost:
            return len(text)
        try:
            self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self.is_lost = True
            self._forget()
        return len(text)

    def isatty(self) -> bool:
        """Whether a person's terminal is behind the stream."""
        with contextlib.suppress(ValueError):
            return self._stream.isatty()
        return False

    def _forget(self) -> None:
        """Point the broken descriptor at nothing, or Python fails again when it flushes at exit."""
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


@dataclass(frozen=True)
class Progress:
    """Where training stands, as words that fit any width."""

    task: str
    fraction: float
    """Of the task, in [0, 1]."""
    words: tuple[str, ...]
    """Most important last: what does not fit is dropped from the front."""

    def line(self, width: int, full: str = "", rest: str = "") -> str:
        """One line of at most `width` columns, with a bar of `full` and `rest` if there is room."""
        words = [f"{100 * self.fraction:3.0f} %", *self.words]
        while len(words) > 1 and len(self._joined(words)) > width:
            del words[0]
        length = min(width - len(self._joined(words)) - 2, MOST_BAR)
        if not full or length < LEAST_BAR:
            return self._joined(words)[:width]
        done = round(self.fraction * length)
        return self._joined([full * done + rest * (length - done), *words])

    def _joined(self, words: list[str]) -> str:
        return "  ".join([self.task, *words])


class Screen(Protocol):
    """What the console recorder needs of a place to show things."""

    @property
    def width(self) -> int:
        """Columns there are."""

    def say(self, line: str, style: str = "") -> None:
        """Show a line that stays; `style` is a colour or weight where there are such."""

    def show(self, grid: Grid) -> None:
        """Show a table that stays."""

    def progress(self, progress: Progress, now: float) -> None:
        """Show where training stands, if it is time to (`now`: seconds of a monotonic clock)."""


class PlainScreen:
    """Lines without control codes, for files, pipes and notebooks.

    Progress is rare there: after each tenth of a task, but not twice within half a minute.
    """

    def __init__(self, stream: TextIO, now: float) -> None:
        self._outlet = Outlet(stream)
        self._said_at = now
        self._said_tenth = 0

    @property
    def width(self) -> int:
        """COLUMNS if set."""
        return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns

    def say(self, line: str, style: str = "") -> None:
        """Write `line`."""
        self._outlet.write(line + "\n")

    def show(self, grid: Grid) -> None:
        """Write the table's lines."""
        for line in grid.lines():
            self.say(line)

    def progress(self, progress: Progress, now: float) -> None:
        """Write one line, a tenth of a task and half a minute after the last one."""
        tenth = int(10 * progress.fraction)
        self._said_tenth = min(self._said_tenth, tenth)
        if tenth == self._said_tenth or now - self._said_at < PLAIN_SECONDS:
            return
        self._said_at, self._said_tenth = now, tenth
        self.say(progress.line(self.width))


class TerminalScreen:
    """A terminal: styles through rich (which honours NO_COLOR and COLUMNS), and one live line.

    The live line is rewritten in place and the cursor is never hidden, so that even SIGKILL
    leaves a sane terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._outlet = Outlet(stream)
        file = cast("TextIO", self._outlet)
        self._console = Console(file=file, force_terminal=True, highlight=False)
        self._drawn_at = -float("inf")
        self._is_live = False

    @property
    def width(self) -> int:
        """Columns of the terminal now."""
        return self._console.width

    def say(self, line: str, style: str = "") -> None:
        """Print `line`, wrapped at blanks alone, so that a long path can be copied."""
        from rich.text import Text

        self._clear()
        parts = textwrap.wrap(
            line,
            self.width,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        self._console.print(Text("\n".join(parts), style=style), soft_wrap=True)

    def show(self, grid: Grid) -> None:
        """Print the table, its header quiet, one column strong."""
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        self._clear()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in grid.header:
            table.add_column(
                Text(name),
                justify="left" if name == grid.header[0] else "right",
                style="bold" if name == grid.strong else "",
                min_width=FIGURE_WIDTH,
                no_wrap=True,
            )
        for row in grid.rows:
            table.add_row(*map(Text, row))
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def progress(self, progress: Progress, now: float) -> None:
        """Rewrite the live line, at most five times a second."""
        if now - self._drawn_at < LIVE_SECONDS:
            return
        from rich.text import Text

        self._drawn_at = now
        full, rest = ("━", "─") if self._outlet.encoding.lower().startswith("utf") else ("#", ".")
        text = Text(progress.line(self.width - 1, full, rest))
        text.highlight_regex(f"{full}+", "cyan")
        text.highlight_regex(f"{rest}{{2,}}", "dim")
        with self._console.capture() as captured:
            self._console.print(text, end="", soft_wrap=True)
        self._outlet.write(f"\r{captured.get()}\x1b[K")
        self._is_live = True

    def _clear(self) -> None:
        if self._is_live:
            self._outlet.write("\r\x1b[K")
            self._is_live = False
