"""Signals only set a flag; the step in hand is finished and saved before the process leaves."""

from __future__ import annotations

import os
import signal
from types import FrameType

from perdure.ranks import environment

RESUMABLE = 75
"""Exit status of a run that saved its state and can go on (EX_TEMPFAIL)."""
PARENT = "PERDURE_PARENT"
"""Environment variable: the process that this one should not outlive."""


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
        """Listen to SIGTERM, SIGINT, SIGUSR2 and (torchrun would die of it) SIGUSR1 elsewhere.

        Who was asked before, and did not get to it, hands the reason on: in a sweep a signal may
        come between two runs.
        """
        signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
        if not self._has_agent:
            signals.append(signal.SIGUSR1)
        for number in signals:
            before = getattr(signal.signal(number, self._asked), "__self__", None)
            if isinstance(before, StopFlag) and self.reason is None:
                self.reason = before.reason

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None and not self._has_agent:
            # The second Ctrl-C: the user will not wait.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.reason = f"stopped by {signal.Signals(number).name}"


def follow_parent() -> None:
    """Be asked to stop (Linux) when the process named by PARENT dies, however it dies."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        environment.end_with(int(parent))
