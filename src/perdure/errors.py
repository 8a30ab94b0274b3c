"""Errors that are the user's to mend: shown as one sentence, exit status 2, never a traceback."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` on one line that a terminal shows as it is.

    Messages quote names from files that others wrote: escape sequences, line breaks and marks that
    turn the direction of writing would let a file speak in the program's name. Each becomes a
    space.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text)


class UserError(Exception):
    """A mistake in what the user gave; the message says what, where, and what would be accepted."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DivergenceError(Exception):
    """The loss or a weight is no longer a finite number; the message says since when."""


class PreemptedError(Exception):
    """The run was asked to leave, and has saved its state; the message says by whom."""


class PeerLostError(Exception):
    """Another rank of the run ended or does not answer; it shows its own error, if it can."""


class Leaving(SystemExit):
    """The process ends, and says why in one sentence.

    Args:
        sentence: why.
        status: its exit status.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(status)
        self.sentence = printable(sentence)
