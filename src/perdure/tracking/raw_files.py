"""The folder records/ of a run: raw predictions (NumPy arrays) and counts (JSON lines), bounded.

What stands there follows from the position in training alone. A resumed run drops what lies after
its position and makes it again, and what lies before it is not made twice; so the folder ends as
that of an undisturbed run, and no checkpoint knows of it. What is read is foreign data.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from perdure.errors import UserError
from perdure.io.atomic import make_folder, remove_temporaries, write_atomically, write_stream
from perdure.io.files import is_own, open_plain, parse_json
from perdure.io.run_files import RunFiles
from perdure.tracking.history import plain

if TYPE_CHECKING:
    import numpy as np

ROWS_LIMIT = 64 * 2**20
"""Bytes of all rows; those beyond are not written."""
ARRAYS_LIMIT = 256 * 2**20
"""Bytes of a file of arrays that is read."""
_PLACE = ("kind", "task", "trained", "epoch", "global_step", "batch", "boundary")


class RawFiles:
    """Writes the folder, for who holds the lock of its run; it appears with the first record.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._files = RunFiles(folder)
        self._rows: BinaryIO | None = None
        self._size = 0
        self._there: set[tuple[Any, ...]] = set()

    def start(self, global_step: int, tasks_done: int, n_tasks: int) -> None:
        """Drop what was recorded after this position.

        Args:
            global_step: steps made.
            tasks_done: tasks whose end was measured.
            n_tasks: of the benchmark.

        Raises:
            UserError: the file of rows is a link, which may lead out of the run's folder.
        """
        path = self._files.raw_rows
        if path.is_symlink() or path.parent.is_symlink():
            raise UserError(f"{path}: is a link, and a run writes only to files of its own")
        remove_temporaries(path.parent)
        for task in range(tasks_done, n_tasks):
            self._files.raw_examples(task).unlink(missing_ok=True)
        if not path.is_file():
            return
        kept: list[bytes] = []
        for row, line in _lines(path):
            if not isinstance(step := row.get("global_step"), int) or step > global_step:
                break
            if step == global_step:
                self._there.add(_place(row))
            kept.append(line)
        self._size = sum(map(len, kept))
        if self._size != path.stat().st_size:
            write_atomically(path, b"".join(kept))

    def append(self, row: dict[str, Any]) -> None:
        """Write a row as one line, unless it is there from before a resume."""
        line = (json.dumps(plain(row), separators=(",", ":"), allow_nan=False) + "\n").encode()
        if _place(row) in self._there or self._size + len(line) > ROWS_LIMIT:
            return
        if self._rows is None:
            self._make_folder()
            self._rows = self._files.raw_rows.open("ab")
        self._rows.write(line)
        self._rows.flush()
        self._size += len(line)

    def write(self, task: int, arrays: dict[str, Any]) -> None:
        """Write the predictions at the end of `task`."""
        import numpy as np

        self._make_folder()
        path = self._files.raw_examples(task)
        write_stream(path, lambda file: np.savez(file, allow_pickle=False, **arrays))

    def _make_folder(self) -> None:
        if not self._files.raw_records.is_dir():
            make_folder(self._files.raw_records)

    def sync(self) -> None:
        """Wait until all rows are on the disk."""
        if self._rows is not None:
            os.fsync(self._rows.fileno())

    def close(self) -> None:
        """Make the rows durable and close the file."""
        self.sync()
        if self._rows is not None:
            self._rows.close()
            self._rows = None


def copy_records(there: Path, folder: Path, tasks_done: int) -> None:
    """Copy what the run in `there` recorded to `folder`, where it is continued; no links.

    Args:
        there: the folder of the earlier run.
        folder: the new one.
        tasks_done: how many of its tasks count.
    """
    old, new = RunFiles(there), RunFiles(folder)
    pairs = [(old.raw_examples(task), new.raw_examples(task)) for task in range(tasks_done)]
    for path, copy in [(old.raw_rows, new.raw_rows), *pairs]:
        if is_own(path, there) and path.stat().st_size <= ARRAYS_LIMIT:
            make_folder(copy.parent)
            with path.open("rb") as file:
                write_stream(copy, partial(shutil.copyfileobj, file))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the run in `folder`, up to the first damaged one; none where there is no file."""
    path = RunFiles(folder).raw_rows
    return [row for row, _ in _lines(path)] if path.is_file() else []


def read_examples(folder: Path, task: int) -> dict[str, np.ndarray] | None:
    """The predictions at the end of `task`, arrays of one length; None where there are none.

    Raises:
        UserError: the file is damaged, larger than it may be, or holds what no run writes.
    """
    import numpy as np

    path = RunFiles(folder).raw_examples(task)
    if not path.is_file():
        return None
    try:
        with open_plain(path, follow=False) as file:
            _require_stored(file)
            with np.load(file, allow_pickle=False) as found:
                arrays = {name: np.asarray(found[name]) for name in found.files}
    except Exception:  # NumPy reads headers with a tokenizer, whose errors are of many kinds
        raise UserError(f"{path}: damaged (no arrays of a run)") from None
    arrays.pop("every", None)
    sizes = {array.shape for array in arrays.values()}
    is_plain = all(array.dtype.kind in "iuf" for array in arrays.values())
    if not {"task", "label"} <= arrays.keys() or len(sizes) != 1 or not is_plain:
        raise UserError(f"{path}: damaged (no arrays of a run)")
    if len(next(iter(sizes))) != 1:
        raise UserError(f"{path}: damaged (no arrays of a run)")
    return arrays


def _require_stored(file: BinaryIO) -> None:
    """Refuse members that are compressed, or more bytes than a run writes.

    Raises:
        ValueError: they are.
    """
    with zipfile.ZipFile(file) as members:
        infos = members.infolist()
    is_stored = all(each.compress_type == zipfile.ZIP_STORED for each in infos)
    if not is_stored or sum(each.file_size for each in infos) > ARRAYS_LIMIT:
        raise ValueError("not as a run writes it")
    file.seek(0)


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Rows with their lines, up to the first that is damaged or beyond the limit."""
    try:
        with open_plain(path, follow=False) as file:
            left = ROWS_LIMIT
            while (line := file.readline(left + 1)) and len(line) <= left:
                left -= len(line)
                row = parse_json(line, ROWS_LIMIT)
                if not isinstance(row, dict) or not line.endswith(b"\n"):
                    return
                yield row, line
    except (OSError, ValueError):
        return


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(repr(row.get(key)) for key in _PLACE)
