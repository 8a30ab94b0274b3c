"""What waits to be uploaded, in `<run>/outbox/`, out of reach of retention and of crashes.

A parcel is a folder that appears whole: hard links to a checkpoint and its sidecar (copies where a
file system has no links), what was known of the results then, and `parcel.json`. It is removed when
the server has it. A checkpoint that nothing but `latest` would name is given up for a newer one, so
that a slow connection never fills the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.tracking.atomic import write_atomically

FOLDER = "outbox"
_ABOUT = "parcel.json"
_RESULTS = ("results.json", "metrics.jsonl", "accuracy.csv")
_REPORT = ("accuracy_matrix.png", "report.html", "train.log")


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
        names = {self.checkpoint, f"{self.checkpoint}.json", _ABOUT}
        return sorted(path for path in self.folder.iterdir() if path.name not in names)

    def save(self) -> None:
        about = {"checkpoint": self.checkpoint, "aliases": self.aliases, "about": self.about}
        write_atomically(self.folder / _ABOUT, json.dumps(about).encode(), durable=False)


class Outbox:
    """The parcels of the run in `folder`; one thread adds, another sends."""

    def __init__(self, folder: Path) -> None:
        self.run = folder
        self.folder = folder / FOLDER
        self._sending: Path | None = None
        self._lock = threading.Lock()

    def add_checkpoint(self, path: Path) -> None:
        """Keep the committed checkpoint `path`, whatever becomes of it in its own folder.

        Raises:
            OSError: the disk's own error.
        """
        sidecar = path.with_name(f"{path.name}.json")
        about = json.loads(sidecar.read_text())
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
        with self._lock:
            before = self._read()
            number = 1 + max((int(p.folder.name) for p in before), default=0)
            parcel = Parcel(self.folder / f".{number:06d}", checkpoint, aliases, about)
            shutil.rmtree(parcel.folder, ignore_errors=True)
            parcel.folder.mkdir(parents=True)
            for path in links:
                _link(path, parcel.folder / path.name)
            for name in copies:
                if (self.run / name).is_file():
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
        for path in sorted(self.folder.glob("[0-9]*")) if self.folder.is_dir() else ():
            try:
                found.append(Parcel(path, **json.loads((path / _ABOUT).read_text())))
            except (OSError, ValueError, TypeError):
                continue  # half removed by a process that was killed
        return found

    def _remove(self, folder: Path) -> None:
        (folder / _ABOUT).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _task_alias(about: dict[str, Any]) -> list[str]:
    if about["kind"] != "task":
        return []
    stage = str(about["stage"])
    return ["joint" if stage == "joint" else f"task-{stage.removeprefix('task')}"]


def _is_best(path: Path, sha256: str) -> bool:
    """Whether the run's best epoch is the very state in `path`."""
    best = path.with_name("best_full.pth")
    if not best.is_symlink():
        return False
    sidecar = best.with_name(f"{os.readlink(best)}.json")
    try:
        return bool(json.loads(sidecar.read_text())["sha256"] == sha256)
    except (OSError, ValueError, KeyError):
        return False


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
