"""Faults that a test sets on one kind of request."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class Fault:
    """Waiting comes first; what then happens is the first that is set, else a good answer."""

    status: int = 0  # answer with this HTTP status
    message: str = ""  # answer 200 with this GraphQL error
    delay: float = 0.0  # seconds to wait
    hold: threading.Event | None = None  # wait until it is set
    cut: int = -1  # hang up after so many bytes of a stored file, of other requests at once
    lose: bool = False  # do what was asked and hang up without an answer
    corrupt: bool = False  # flip bytes of a stored file that is read, keeping its length
    times: int = 1 << 30  # then be well again

    def wait(self, closing: threading.Event) -> None:
        closing.wait(self.delay)
        if self.hold:
            self.hold.wait()


def corrupted(chunk: bytes) -> bytes:
    """The first and the middle byte flipped."""
    flipped = bytearray(chunk)
    for place in {0, len(flipped) // 2} if flipped else ():
        flipped[place] ^= 0xFF
    return bytes(flipped)
