"""The errors of this package: each carries its exit status, and what it means for the run.

A `UserError` is shown as one sentence and ends with exit status 2, never in a traceback.
"""

from __future__ import annotations

from typing import ClassVar

RESUMABLE = 75
"""Exit status of a run that saved its state and can be resumed (EX_TEMPFAIL)."""


def printable(text: str) -> str:
    """`text` on one line that a terminal shows as it is.

    Messages quote names from files that others wrote: escape sequences, line breaks and marks that
    turn the direction of writing would let a file speak in the program's name. Each becomes a
    space.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


class PerdureError(Exception):
    """An error with a message of one sentence.

    Attributes:
        exit_status: of the process that it ends.
        run_status: what status.json says of the run then.
    """

    exit_status: ClassVar[int] = 1
    run_status: ClassVar[str] = "failed"

    def __str__(self) -> str:
        return printable(super().__str__())


class UserError(PerdureError):
    """A mistake in what the user gave; the message says what, where, and what would be accepted."""

    exit_status = 2


class DivergenceError(PerdureError):
    """The loss or a weight is no longer a finite number; the message says since when."""


class PreemptedError(PerdureError):
    """The run was stopped from outside and has saved its state; the message says by what."""

    exit_status = RESUMABLE
    run_status = "resumable"


class PeerLostError(PerdureError):
    """Another rank of the run ended or does not answer; it shows its own error, if it can."""

    run_status = "interrupted"


class ExitRun(SystemExit):
    """The process ends, with one sentence that says why.

    Args:
        sentence: why.
        status: its exit status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(status)
        self.sentence = printable(sentence)
