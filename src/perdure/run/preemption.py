"""Preemption and signals (SIGTERM, Ctrl-C): they only set a flag, which every step boundary reads.

The step under way is finished and the state is saved before the process ends.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from perdure.ranks import environment

PARENT = "PERDURE_PARENT"
"""Environment variable: the process that this one should not outlive."""


class StopFlag:
    """Why the run should stop, if a signal or a person requested it; callable, for the trainer."""

    def __init__(self) -> None:
        self.reason: str | None = None
        # One Ctrl-C reaches a rank twice, from the terminal and from torchrun, which waits itself.
        self._has_agent = "TORCHELASTIC_RUN_ID" in os.environ

    def __call__(self) -> str | None:
        return self.reason

    def ask(self, reason: str) -> None:
        """Request the run's end, as a signal would."""
        self.reason = reason

    def install(self) -> None:
        """Listen to SIGTERM, SIGINT, SIGUSR2 and (torchrun would die of it) SIGUSR1 elsewhere.

        An earlier flag that was set and not yet read hands its reason over: in a sweep a signal may
        come between two runs.
        """
        signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
        if not self._has_agent:
            signals.append(signal.SIGUSR1)
        for number in signals:
            before = getattr(signal.signal(number, self._on_signal), "__self__", None)
            if isinstance(before, StopFlag) and self.reason is None:
                self.reason = before.reason

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None and not self._has_agent:
            # The second Ctrl-C: the user will not wait.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.reason = f"stopped by {signal.Signals(number).name}"


def follow_parent() -> None:
    """Get SIGTERM (Linux) when the process named by PARENT dies, however it dies."""
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        environment.end_with(int(parent))
