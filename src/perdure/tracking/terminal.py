"""Output to a terminal (colors, a live progress line) or as plain lines to a pipe or file."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import textwrap
from dataclasses import dataclass
from typing import Protocol, TextIO, cast

from perdure.tracking.formatting import NUMBER_WIDTH, TextTable

PLAIN_WIDTH = 100
"""Columns of a plain stream when COLUMNS is not set."""
PLAIN_SECONDS = 30.0
LIVE_SECONDS = 0.2
MIN_BAR, MAX_BAR = 8, 24
"""Columns of the progress bar."""


class SafeStream(io.TextIOBase):
    """A stream that never ends a run: characters it cannot encode become `?`, errors are ignored.

    A closed pipe (`| head`) or a vanished terminal raises in `write`; training continues.
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
            self._detach()
        return len(text)

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with contextlib.suppress(ValueError):
            return self._stream.isatty()
        return False

    def _detach(self) -> None:
        """Redirect the descriptor to the null device, or Python fails when it flushes at exit."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@dataclass(frozen=True)
class Progress:
    """The position of training, as a line that fits any width."""

    task: str
    fraction: float
    """Of the task, in [0, 1]."""
    details: tuple[str, ...]
    """Most important last: those that do not fit are dropped from the front."""

    def line(self, width: int, full: str = "", rest: str = "") -> str:
        """One line of at most `width` columns, with a bar of `full` and `rest` if there is room."""
        parts = [f"{100 * self.fraction:3.0f} %", *self.details]
        while len(parts) > 1 and len(self._joined(parts)) > width:
            del parts[0]
        length = min(width - len(self._joined(parts)) - 2, MAX_BAR)
        if not full or length < MIN_BAR:
            return self._joined(parts)[:width]
        done = round(self.fraction * length)
        return self._joined([full * done + rest * (length - done), *parts])

    def _joined(self, parts: list[str]) -> str:
        return "  ".join([self.task, *parts])


class Display(Protocol):
    """What the console recorder needs of its output."""

    @property
    def width(self) -> int:
        """Columns of a line."""

    def print_line(self, line: str, style: str = "") -> None:
        """Print a line; `style` is a color or weight where the output has such."""

    def print_table(self, table: TextTable) -> None:
        """Print a table."""

    def show_progress(self, progress: Progress, now: float) -> None:
        """Show the progress if a refresh is due (`now`: seconds of a monotonic clock)."""


class PlainDisplay:
    """Lines without control codes, for files, pipes and notebooks.

    Progress is rare there: after each tenth of a task, but not twice within half a minute.
    """

    def __init__(self, stream: TextIO, now: float) -> None:
        self._stream = SafeStream(stream)
        self._printed_at = now
        self._printed_tenth = 0

    @property
    def width(self) -> int:
        """COLUMNS if set."""
        return shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns

    def print_line(self, line: str, style: str = "") -> None:
        """Write `line`."""
        self._stream.write(line + "\n")

    def print_table(self, table: TextTable) -> None:
        """Write the table's lines."""
        for line in table.lines():
            self.print_line(line)

    def show_progress(self, progress: Progress, now: float) -> None:
        """Write one line, a tenth of a task and half a minute after the last one."""
        tenth = int(10 * progress.fraction)
        self._printed_tenth = min(self._printed_tenth, tenth)
        if tenth == self._printed_tenth or now - self._printed_at < PLAIN_SECONDS:
            return
        self._printed_at, self._printed_tenth = now, tenth
        self.print_line(progress.line(self.width))


class TerminalDisplay:
    """A terminal: styles through rich (which honors NO_COLOR and COLUMNS), and one live line.

    The live line is rewritten in place and the cursor is never hidden, so that even SIGKILL
    leaves a sane terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._stream = SafeStream(stream)
        file = cast("TextIO", self._stream)
        self._console = Console(file=file, force_terminal=True, highlight=False)
        self._drawn_at = -float("inf")
        self._is_live = False

    @property
    def width(self) -> int:
        """Columns of the terminal now."""
        return self._console.width

    def print_line(self, line: str, style: str = "") -> None:
        """Print `line`, wrapped at spaces only, so that a long path can be copied."""
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

    def print_table(self, table: TextTable) -> None:
        """Print the table, its header dim, one column bold."""
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        self._clear()
        rich_table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in table.header:
            rich_table.add_column(
                Text(name),
                justify="left" if name == table.header[0] else "right",
                style="bold" if name == table.emphasized else "",
                min_width=NUMBER_WIDTH,
                no_wrap=True,
            )
        for row in table.rows:
            rich_table.add_row(*map(Text, row))
        self._console.print(Padding(rich_table, (0, 0, 0, 2)))

    def show_progress(self, progress: Progress, now: float) -> None:
        """Rewrite the live line, at most five times a second."""
        if now - self._drawn_at < LIVE_SECONDS:
            return
        from rich.text import Text

        self._drawn_at = now
        full, rest = ("━", "─") if self._stream.encoding.lower().startswith("utf") else ("#", ".")
        text = Text(progress.line(self.width - 1, full, rest))
        text.highlight_regex(f"{full}+", "cyan")
        text.highlight_regex(f"{rest}{{2,}}", "dim")
        with self._console.capture() as captured:
            self._console.print(text, end="", soft_wrap=True)
        self._stream.write(f"\r{captured.get()}\x1b[K")
        self._is_live = True

    def _clear(self) -> None:
        if self._is_live:
            self._stream.write("\r\x1b[K")
            self._is_live = False
