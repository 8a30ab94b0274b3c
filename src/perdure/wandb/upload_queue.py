"""The upload queue: checkpoints and results on disk in `<run>/upload_queue/` until W&B has them.

A pending upload is a folder that appears whole: hard links to a checkpoint and its sidecar (copies
where a file system has no links), the results as they were then, and `upload.json`. So neither
retention nor a crash takes a file away before it is sent. It is removed when the server has it. A
checkpoint that only `latest` would name is dropped for a newer one, so that a slow connection never
fills the disk.

A folder may have come from elsewhere, with a pending upload in it: only files of the known names
are sent, and no link, which could lead to anything on this machine.

Runs of version 0.1 kept the same in `<run>/outbox/`, each with a `parcel.json`; what is found there
is moved into the queue.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.errors import printable
from perdure.io.atomic import write_atomically
from perdure.io.files import is_own, read_json
from perdure.io.run_files import ACCURACY, ACCURACY_PICTURE, LOG, METRICS, REPORT, RESULTS

logger = logging.getLogger("perdure")

FOLDER = "upload_queue"
_LABEL = "upload.json"
_OLD_FOLDER = "outbox"
_OLD_LABEL = "parcel.json"
_RESULTS = (RESULTS, METRICS, ACCURACY)
_REPORT = (ACCURACY_PICTURE, REPORT, LOG)
RECORDERS = "recorders.json"
_CHECKPOINT = re.compile(r"[^/\\\x00-\x1f]{1,250}\.pth?")
_ALIAS = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass
class PendingUpload:
    """A checkpoint with its results, or results alone, that the server does not have yet.

    Attributes:
        folder: where its files are.
        checkpoint: name of the checkpoint's file; None for results alone.
        aliases: names that the new version gets besides its number.
        metadata: content of the checkpoint's sidecar; empty for results alone.
    """

    folder: Path
    checkpoint: str | None
    aliases: list[str]
    metadata: dict[str, Any]

    @property
    def lasting(self) -> bool:
        """Whether it has another alias than `latest`."""
        return self.checkpoint is None or set(self.aliases) != {"latest"}

    @property
    def results(self) -> list[Path]:
        """The files of the results artifact."""
        names = sorted(Path(name).name for name in (*_RESULTS, *_REPORT, RECORDERS))
        return [path for name in names if is_own(path := self.folder / name, self.folder)]

    def save(self) -> None:
        """Write its label."""
        label = {"checkpoint": self.checkpoint, "aliases": self.aliases, "metadata": self.metadata}
        write_atomically(self.folder / _LABEL, json.dumps(label).encode(), durable=False)


class UploadQueue:
    """The pending uploads of the run in `folder`; one thread adds, another sends."""

    def __init__(self, folder: Path) -> None:
        self.run = folder
        self.folder = folder / FOLDER
        self._sending: Path | None = None
        self._rejected: set[Path] = set()
        self._lock = threading.Lock()
        self._adopt(folder / _OLD_FOLDER)

    def add_checkpoint(self, path: Path) -> None:
        """Queue the committed checkpoint `path`, even if retention removes it from its folder.

        Raises:
            OSError: the disk's own error, or it does not lie in the run's folder.
            ValueError: its sidecar is not valid.
        """
        sidecar = sidecars.path_of(path)
        for file in (path, sidecar):
            if not is_own(file, self.run):
                raise OSError(errno.EPERM, "it is a link, or not in the run's folder", str(file))
        metadata = sidecars.read(path)
        aliases = ["latest", *_task_alias(metadata)]
        if _is_best(path, metadata["sha256"]):
            aliases.append("best")
        self._add(path.name, (path, sidecar), _RESULTS, aliases, metadata)

    def add_results(self) -> None:
        """Queue the results as they are now, with the picture, the report and the log."""
        self._add(None, (), (*_RESULTS, *_REPORT), ["latest", "final"], {})

    def pending(self) -> list[PendingUpload]:
        """The uploads that the server does not have yet, the oldest first."""
        with self._lock:
            return self._read()

    def begin(self, upload: PendingUpload) -> bool:
        """Whether `upload` is still queued; from now on it is not dropped for a newer one."""
        with self._lock:
            self._sending = upload.folder if upload.folder.is_dir() else None
            return self._sending is not None

    def failed(self) -> None:
        """The upload that was begun could not be sent, and is pending again."""
        with self._lock:
            self._sending = None

    def sent(self, upload: PendingUpload) -> None:
        """The server has `upload`: remove it, and the queue's folder after the last one."""
        with self._lock:
            self._sending = None
            self._remove(upload.folder)
            if not self._read():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _adopt(self, old: Path) -> None:
        """Move the uploads of a run of version 0.1 into this queue, under their own numbers."""
        if old.is_symlink() or not old.is_dir() or self.folder.is_symlink():
            return
        try:
            for path in sorted(old.glob("[0-9]*")):
                self.folder.mkdir(exist_ok=True)
                target = self.folder / path.name
                if os.path.lexists(target):  # that version has resumed the run after this one
                    target = self.folder / f"{self._next_number():06d}"
                os.rename(path, target)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            shown = printable(str(old)), printable(str(error))
            logger.warning("%s cannot be moved, so its uploads are not sent: %s", *shown)

    def _next_number(self) -> int:
        return 1 + max((int(upload.folder.name) for upload in self._read()), default=0)

    def _add(
        self,
        checkpoint: str | None,
        links: Iterable[Path],
        copies: Iterable[str],
        aliases: list[str],
        metadata: dict[str, Any],
    ) -> None:
        if self.folder.is_symlink():
            raise OSError(errno.EPERM, "it is a link", str(self.folder))
        with self._lock:
            before = self._read()
            number = self._next_number()
            upload = PendingUpload(self.folder / f".{number:06d}", checkpoint, aliases, metadata)
            shutil.rmtree(upload.folder, ignore_errors=True)
            upload.folder.mkdir(parents=True)
            for path in links:
                _link(path, upload.folder / path.name)
            for name in copies:
                if is_own(self.run / name, self.run):
                    shutil.copyfile(self.run / name, upload.folder / Path(name).name)
            upload.save()
            target = self.folder / f"{number:06d}"
            shutil.rmtree(target, ignore_errors=True)  # half removed, else it had been read
            os.replace(upload.folder, target)
            self._supersede(before, checkpoint is None, aliases)

    def _supersede(self, before: list[PendingUpload], results: bool, aliases: list[str]) -> None:
        """Take from older uploads the alias `best`, and drop those that need not be sent now."""
        for old in before:
            if old.folder == self._sending or (old.checkpoint is None) is not results:
                continue
            if "best" in aliases and "best" in old.aliases:
                old.aliases.remove("best")
                old.save()
            if results or not old.lasting:
                self._remove(old.folder)

    def _read(self) -> list[PendingUpload]:
        found = []
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        for path in sorted(self.folder.glob("[0-9]*")):
            try:
                found.append(_upload_in(path))
            except FileNotFoundError:
                continue  # half removed by a process that was killed
            except (OSError, ValueError) as error:
                if path not in self._rejected:
                    shown = printable(str(path)), printable(str(error))
                    logger.warning("%s is not a valid pending upload, and not sent: %s", *shown)
                self._rejected.add(path)
        return found

    def _remove(self, folder: Path) -> None:
        # The label goes first: without it the folder is no upload. The newer label goes last, since
        # the older one, where there is one, may list aliases that have moved on.
        for label in (_OLD_LABEL, _LABEL):
            (folder / label).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _upload_in(folder: Path) -> PendingUpload:
    """The pending upload in `folder`.

    Raises:
        FileNotFoundError: it has no label.
        OSError, ValueError: it is not valid.
    """
    if folder.is_symlink() or re.fullmatch("[0-9]{1,18}", folder.name) is None:
        raise ValueError("not a folder of its own")
    name, aliases, metadata = _label_of(folder)
    if not isinstance(aliases, list) or not all(map(_is_alias, aliases)):
        raise ValueError("its aliases are not valid")
    if name is None:
        return PendingUpload(folder, None, aliases, {})
    if not isinstance(name, str) or _CHECKPOINT.fullmatch(name) is None or name.startswith("."):
        raise ValueError("its checkpoint's name is not valid")
    for file in (folder / name, sidecars.path_of(folder / name)):
        if not is_own(file, folder):
            raise ValueError(f"{file.name} is not a file of its own")
    return PendingUpload(folder, name, aliases, sidecars.validated(metadata))


def _label_of(folder: Path) -> tuple[Any, Any, Any]:
    """Checkpoint, aliases and metadata, unchecked; version 0.1 called the last one `about`."""
    try:
        label, key = read_json(folder / _LABEL), "metadata"
    except FileNotFoundError:
        label, key = read_json(folder / _OLD_LABEL), "about"
    if not isinstance(label, dict) or label.keys() != {"checkpoint", "aliases", key}:
        raise ValueError("its label is not valid")
    return label["checkpoint"], label["aliases"], label[key]


def _is_alias(value: Any) -> bool:
    return isinstance(value, str) and _ALIAS.fullmatch(value) is not None


def _task_alias(metadata: dict[str, Any]) -> list[str]:
    if metadata.get("kind") != "task":
        return []
    stage = str(metadata.get("stage", ""))
    return ["joint" if stage == "joint" else f"task-{stage.removeprefix('task')}"]


def _is_best(path: Path, sha256: str) -> bool:
    """Whether `path` holds the state of the run's best epoch."""
    best = path.with_name("best_full.pth")
    if not best.is_symlink():
        return False
    target = best.with_name(Path(os.readlink(best)).name)
    try:
        return bool(sidecars.read(target)["sha256"] == sha256)
    except (OSError, ValueError):
        return False


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
