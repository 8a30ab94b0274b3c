"""What waits to be uploaded, in `<run>/outbox/`, out of reach of retention and of crashes.

A parcel is a folder that appears whole: hard links to a checkpoint and its sidecar (copies where a
file system has no links), what was known of the results then, and `parcel.json`. It is removed when
the server has it. A checkpoint that nothing but `latest` would name is given up for a newer one, so
that a slow connection never fills the disk.

A folder may have come from elsewhere, with a parcel in it: only files of the known names are sent,
and none that is a link, which could lead to anything on this machine.
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

logger = logging.getLogger("perdure")

FOLDER = "outbox"
_ABOUT = "parcel.json"
_RESULTS = ("results.json", "metrics.jsonl", "accuracy.csv")
_REPORT = ("accuracy_matrix.png", "report.html", "train.log")
RECORDERS = "recorders.json"
_CHECKPOINT = re.compile(r"[^/\\\x00-\x1f]{1,250}\.pth?")
_ALIAS = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass
class Parcel:
    """Something to upload.

    Attributes:
        folder: holds it.
        checkpoint: name of the checkpoint's file; none for results alone.
        aliases: what the new version will be called besides its number.
        about: what the checkpoint's sidecar says; empty for results alone.
    """

    folder: Path
    checkpoint: str | None
    aliases: list[str]
    about: dict[str, Any]

    @property
    def lasting(self) -> bool:
        """Whether more than `latest` names it."""
        return self.checkpoint is None or set(self.aliases) != {"latest"}

    @property
    def results(self) -> list[Path]:
        """The files of the results artifact."""
        names = sorted((*_RESULTS, *_REPORT, RECORDERS))
        return [path for name in names if is_own(path := self.folder / name, self.folder)]

    def save(self) -> None:
        about = {"checkpoint": self.checkpoint, "aliases": self.aliases, "about": self.about}
        write_atomically(self.folder / _ABOUT, json.dumps(about).encode(), durable=False)


class Outbox:
    """The parcels of the run in `folder`; one thread adds, another sends."""

    def __init__(self, folder: Path) -> None:
        self.run = folder
        self.folder = folder / FOLDER
        self._sending: Path | None = None
        self._refused: set[Path] = set()
        self._lock = threading.Lock()

    def add_checkpoint(self, path: Path) -> None:
        """Keep the committed checkpoint `path`, whatever becomes of it in its own folder.

        Raises:
            OSError: the disk's own error, or it does not lie in the run's folder.
            ValueError: its sidecar is none.
        """
        sidecar = sidecars.path_of(path)
        for file in (path, sidecar):
            if not is_own(file, self.run):
                raise OSError(errno.EPERM, "it is a link, or not in the run's folder", str(file))
        about = sidecars.read(path)
        aliases = ["latest", *_task_alias(about)]
        if _is_best(path, about["sha256"]):
            aliases.append("best")
        self._add(path.name, (path, sidecar), _RESULTS, aliases, about)

    def add_results(self) -> None:
        """Keep the results as they are now, with what is made for people to look at."""
        self._add(None, (), (*_RESULTS, *_REPORT), ["latest", "final"], {})

    def waiting(self) -> list[Parcel]:
        """What is not sent yet, the oldest first."""
        with self._lock:
            return self._read()

    def begin(self, parcel: Parcel) -> bool:
        """Whether `parcel` is still wanted; from now on it is not given up for another."""
        with self._lock:
            self._sending = parcel.folder if parcel.folder.is_dir() else None
            return self._sending is not None

    def failed(self) -> None:
        """What was being sent could not be, and waits again."""
        with self._lock:
            self._sending = None

    def sent(self, parcel: Parcel) -> None:
        """The server has `parcel`: it goes, and so does the folder of the last one."""
        with self._lock:
            self._sending = None
            self._remove(parcel.folder)
            if not self._read():
                shutil.rmtree(self.folder, ignore_errors=True)

    def _add(
        self,
        checkpoint: str | None,
        links: Iterable[Path],
        copies: Iterable[str],
        aliases: list[str],
        about: dict[str, Any],
    ) -> None:
        if self.folder.is_symlink():
            raise OSError(errno.EPERM, "it is a link", str(self.folder))
        with self._lock:
            before = self._read()
            number = 1 + max((int(p.folder.name) for p in before), default=0)
            parcel = Parcel(self.folder / f".{number:06d}", checkpoint, aliases, about)
            shutil.rmtree(parcel.folder, ignore_errors=True)
            parcel.folder.mkdir(parents=True)
            for path in links:
                _link(path, parcel.folder / path.name)
            for name in copies:
                if is_own(self.run / name, self.run):
                    shutil.copyfile(self.run / name, parcel.folder / name)
            parcel.save()
            target = self.folder / f"{number:06d}"
            shutil.rmtree(target, ignore_errors=True)  # half removed, else it had been read
            os.replace(parcel.folder, target)
            self._supersede(before, checkpoint is None, aliases)

    def _supersede(self, before: list[Parcel], results: bool, aliases: list[str]) -> None:
        for old in before:
            if old.folder == self._sending or (old.checkpoint is None) is not results:
                continue
            if "best" in aliases and "best" in old.aliases:
                old.aliases.remove("best")
                old.save()
            if results or not old.lasting:
                self._remove(old.folder)

    def _read(self) -> list[Parcel]:
        found = []
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        for path in sorted(self.folder.glob("[0-9]*")):
            try:
                found.append(_parcel(path))
            except FileNotFoundError:
                continue  # half removed by a process that was killed
            except (OSError, ValueError) as error:
                if path not in self._refused:
                    words = printable(str(path)), printable(str(error))
                    logger.warning("%s is no upload that was kept, and not sent: %s", *words)
                self._refused.add(path)
        return found

    def _remove(self, folder: Path) -> None:
        (folder / _ABOUT).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _parcel(folder: Path) -> Parcel:
    """The parcel in `folder`; raises OSError and ValueError where there is none to be sent."""
    if folder.is_symlink() or re.fullmatch("[0-9]{1,18}", folder.name) is None:
        raise ValueError("not a folder of its own")
    label = read_json(folder / _ABOUT)
    if not isinstance(label, dict) or label.keys() != {"checkpoint", "aliases", "about"}:
        raise ValueError("its label is none")
    name, aliases, about = label["checkpoint"], label["aliases"], label["about"]
    if not isinstance(aliases, list) or not all(map(_is_alias, aliases)):
        raise ValueError("its aliases are none")
    if name is None:
        return Parcel(folder, None, aliases, {})
    if not isinstance(name, str) or _CHECKPOINT.fullmatch(name) is None or name.startswith("."):
        raise ValueError("its checkpoint is named as none is")
    for file in (folder / name, sidecars.path_of(folder / name)):
        if not is_own(file, folder):
            raise ValueError(f"{file.name} is no file of its own")
    return Parcel(folder, name, aliases, sidecars.validated(about))


def _is_alias(value: Any) -> bool:
    return isinstance(value, str) and _ALIAS.fullmatch(value) is not None


def _task_alias(about: dict[str, Any]) -> list[str]:
    if about.get("kind") != "task":
        return []
    stage = str(about.get("stage", ""))
    return ["joint" if stage == "joint" else f"task-{stage.removeprefix('task')}"]


def _is_best(path: Path, sha256: str) -> bool:
    """Whether the run's best epoch is the very state in `path`."""
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
