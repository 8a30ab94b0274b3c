"""Signals only set a flag; the step in hand is finished and saved before the process leaves."""

from __future__ import annotations

import os
import signal
from types import FrameType

RESUMABLE = 75
"""Exit status of a run that saved its state and can go on (EX_TEMPFAIL)."""


class StopFlag:
    """Why the run should leave, if anybody asked; callable, for the trainer."""

    def __init__(self) -> None:
        self.reason: str | None = None
        # One Ctrl-C reaches a rank twice, from the terminal and from torchrun, which waits itself.
        self._has_agent = "TORCHELASTIC_RUN_ID" in os.environ

    def __call__(self) -> str | None:
        return self.reason

    def ask(self, reason: str) -> None:
        """Ask the run to leave, as a signal would."""
        self.reason = reason

    def install(self) -> None:
        """Listen to SIGTERM, SIGINT and (torchrun would die of it) SIGUSR1 elsewhere."""
        signals = [signal.SIGTERM, signal.SIGINT]
        if not self._has_agent:
            signals.append(signal.SIGUSR1)
        for number in signals:
            signal.signal(number, self._asked)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None and not self._has_agent:
            # The second Ctrl-C: the user will not wait.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.reason = f"stopped by {signal.Signals(number).name}"
