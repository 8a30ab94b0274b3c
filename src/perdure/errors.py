"""Errors that are the user's to mend: shown as one sentence, exit status 2, never a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave; the message says what, where, and what would be accepted."""


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
        self.sentence = sentence
