"""metrics.jsonl: JSON lines with a running checksum, so that a resumed run finds damage in it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from perdure.errors import UserError, printable
from perdure.io.atomic import write_stream

logger = logging.getLogger("perdure")

_BLOCK = 1 << 20
_MARKS = 64


class History:
    """JSON lines, each flushed at once; the first `size` bytes belong to the run.

    At each checkpoint the SHA-256 of all rows so far is marked. The newest marks and ever fewer of
    the older ones go into the checkpoint: what lies before the last mark that fits is intact.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = logger.warning) -> None:
        self.path = path
        self._warn = warn
        self.size = 0
        self._marks: list[tuple[int, str]] = []
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None

    def state_dict(self) -> dict[str, Any]:
        """Size and marks, once that many bytes are durable (fsync)."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            if not self._marks or self._marks[-1][0] < self.size:
                self._marks.append((self.size, self._digest.hexdigest()))
            if len(self._marks) == _MARKS:
                self._marks = self._marks[1::2]
        return {"metrics_bytes": self.size, "metrics_sha256": [list(m) for m in self._marks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `open` expects; checkpoints of earlier versions have no marks."""
        self.size = int(state["metrics_bytes"])
        self._marks = [(int(size), str(digest)) for size, digest in state.get("metrics_sha256", [])]

    def open(self) -> None:
        """Truncate what was written after `size`: those steps are trained, and written, again.

        Where the rows are not those that the checkpoint counted, the file is set aside, and the
        part that is intact is kept.

        Raises:
            UserError: the file is a link, which may lead out of the run's folder.
        """
        if self.path.is_symlink():
            raise UserError(f"{self.path}: is a link, and a run writes only to files of its own")
        self._file = self.path.open("ab")
        expected, self.size = self.size, self._intact()
        if self.size < expected:
            self._report(expected)
            self._marks = [mark for mark in self._marks if mark[0] <= self.size]
        self._file.truncate(self.size)

    def append(self, row: dict[str, Any]) -> None:
        """Write `row` as one line; a crash of this process after the call cannot lose it."""
        if self._file is None:
            raise RuntimeError("metrics.jsonl is open only between the run's start and its end")
        line = (json.dumps(plain(row), allow_nan=False) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self._digest.update(line)
        self.size += len(line)

    def close(self) -> None:
        """Make the rows durable and close the file; further rows are refused."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    # --- damage -------------------------------------------------------------------------------

    def _intact(self) -> int:
        """How many of the first `size` bytes are as they were; the digest then stands there."""
        expected = dict(self._marks) or {self._lines(): ""}
        intact, kept = 0, self._digest.copy()
        with self.path.open("rb") as file:
            for end, digest in sorted(expected.items()):
                while block := file.read(min(_BLOCK, end - file.tell())):
                    self._digest.update(block)
                if file.tell() < end or digest not in ("", self._digest.hexdigest()):
                    break
                intact, kept = end, self._digest.copy()
        self._digest = kept
        return intact

    def _lines(self) -> int:
        """The size without any mark: `size`, or as many complete lines as are there."""
        n_bytes = self.path.stat().st_size
        if n_bytes >= self.size:
            return self.size
        with self.path.open("rb") as file:
            end = 0
            for line in file:
                end += len(line) if line.endswith(b"\n") else 0
        return end

    def _report(self, expected: int) -> None:
        """Say what is lost, and set the damaged file aside."""
        aside = self.path
        if self.path.stat().st_size > self.size:
            n = 0
            while os.path.lexists(aside := self.path.with_name(f"{self.path.name}.damaged-{n}")):
                n += 1
            with self.path.open("rb") as file:
                write_stream(aside, lambda copy: shutil.copyfileobj(file, copy, _BLOCK))
        where = "" if aside == self.path else f" (the file as it was is {aside.name})"
        self._warn(
            printable(
                f"{self.path}: damaged: of the {expected} bytes that the checkpoint counted the "
                f"first {self.size} are intact and stay{where}; new rows follow them"
            )
        )


def plain(value: Any) -> Any:
    """`value` in JSON's own types: NaN and infinities become null, paths and scalars plain."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
