"""Download of a W&B artifact's files: retries, size limits, SHA-256 checks, an atomic cache folder.

W&B does not notice a corrupt download (and would keep it), so our own hashes decide: that in the
sidecar, which the artifact's metadata repeats, and those of the results. Anybody may have written
that metadata: it names files of the artifact and of its own project's results, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.errors import UserError
from perdure.io.atomic import publish
from perdure.io.files import digest, matches, writing
from perdure.io.locking import locked
from perdure.io.run_files import ACCURACY, METRICS, RESULTS, RunFiles
from perdure.io.transfer import OverLimitError, Transfer
from perdure.wandb.record import is_artifact, is_id
from perdure.wandb.session import explain

MOST_SHOWN = 12
"""Names of files or versions in a message."""
_FILE = re.compile(r"[^/\\\x00-\x1f]{1,250}\.pth?")
_HISTORY = (RESULTS, METRICS, ACCURACY, "recorders.json")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin")
_PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each further attempt (backoff)."""
Validator = Callable[[Path], str | None]
"""Gives the reason why a file that has arrived is invalid, or None."""


class ArtifactDownload:
    """Downloads one artifact into a folder of the cache that appears whole or not at all.

    Args:
        address: the reference, for messages.
        artifact: the client's artifact.
        cache: the folder of all that was fetched.
        transfer: the limits of all requests and downloads together.
        find: gives the client's artifact of a full name.
    """

    def __init__(
        self,
        address: str,
        artifact: Any,
        cache: Path,
        transfer: Transfer,
        find: Callable[[str], Any],
    ) -> None:
        self.address = address
        self.artifact = artifact
        self.transfer = transfer
        self.name = f"{artifact.entity}/{artifact.project}/{artifact.source_name}"
        self._metadata: Mapping[str, Any] = artifact.metadata or {}
        self._folder = cache / "wandb"
        self._find = find

    @property
    def is_checkpoint(self) -> bool:
        """Whether a run of this package has sent it, as its metadata says."""
        return isinstance(self._metadata.get("file"), str) and "run" in self._metadata

    @property
    def run_id(self) -> str | None:
        """The W&B run that it is of; None when it is not called as that run calls its own."""
        run_id = self._metadata["run"]
        is_its_own = str(self.artifact.source_name).rpartition(":")[0] == f"ckpt-{run_id}"
        return run_id if is_its_own else None

    def fetch(self, requested: str | None) -> Path:
        """The checkpoint's file on this machine.

        Args:
            requested: which file, where the artifact is not one of our checkpoints.

        Raises:
            UserError: the metadata is invalid, the file cannot be had, or is not what was sent.
            OverLimitError: it exceeds the limits of the transfer.
        """
        file = self._checkpoint_file() if self.is_checkpoint else self._choose(requested)
        self._folder /= self._key(file)
        path = RunFiles(self._folder).checkpoints / Path(file).name
        with locked(self._folder, "PERDURE_CACHE", self.transfer):
            # Another process may have fetched it while this one waited for the lock.
            if not self._is_present(path):
                self._download(path, file)
        return path

    def _checkpoint_file(self) -> str:
        """The name of the checkpoint's file, once all of the metadata is validated."""
        metadata = self._metadata
        project = self.name.rpartition("/")[0]
        file, results = metadata["file"], metadata.get("results")
        hashes = metadata.get("results_sha256", {})
        validity = {
            "file": _FILE.fullmatch(file) is not None and not file.startswith("."),
            "run": is_id(metadata["run"]),
            "sha256": sidecars.is_sha256(metadata.get("sha256")),
            "results_sha256": isinstance(hashes, Mapping)
            and hashes.keys() <= set(_HISTORY)
            and all(map(sidecars.is_sha256, hashes.values())),
            "results": not hashes
            or (is_artifact(results) and str(results).startswith(f"{project}/results-")),
        }
        for key, is_valid in validity.items():
            if not is_valid:
                shown = json.dumps(metadata.get(key), default=str)[:100]
                raise UserError(f"{self.address}: its {key} is {shown}, which is not valid")
        return str(file)

    def _choose(self, requested: str | None) -> str:
        names = self.transfer.bounded(lambda: list(self.artifact.manifest.entries))
        likely = [name for name in names if name.endswith(_WEIGHTS)] or names
        if requested is None and len(likely) == 1:
            return str(likely[0])
        if requested in names:
            return str(requested)
        what = "holds no file" if requested is None and not names else "choose one of its files"
        shown = ", ".join(names[:MOST_SHOWN])
        raise UserError(f"{self.address}: {what} (wandb://{self.name}/FILE): {shown}")

    def _key(self, file: str) -> str:
        """The folder's name: unique for this file in this version of this artifact."""
        what = json.dumps([self.name, self.artifact.digest, file])
        shown = re.sub("[^A-Za-z0-9._-]", "-", self.artifact.source_name)
        return f"{shown}-{sha256(what.encode()).hexdigest()[:16]}"

    def _is_present(self, path: Path) -> bool:
        if not self.is_checkpoint:
            return path.is_file()
        return matches(path, sha256=self._metadata["sha256"]) and all(
            (self._folder / name).is_file() for name in self._result_hashes()
        )

    def _download(self, path: Path, file: str) -> None:
        with writing(self._folder.parent, "PERDURE_CACHE"):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            part = self._folder.with_name(f"{self._folder.name}.{uuid.uuid4().hex}.part")
            RunFiles(part).checkpoints.mkdir(parents=True)
        try:
            target = RunFiles(part).checkpoints / path.name
            if self.is_checkpoint:
                self._download_checkpoint(target, part)
            else:
                self._get(self.artifact, file, target, lambda path: None)
            shutil.rmtree(self._folder, ignore_errors=True)
            publish(part, self._folder, "PERDURE_CACHE")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _download_checkpoint(self, target: Path, part: Path) -> None:
        sidecar, expected = sidecars.path_of(target), self._metadata["sha256"]
        self._get(self.artifact, sidecar.name, sidecar, _is_sidecar_of(expected), sidecars.LIMIT)
        self._get(self.artifact, target.name, target, _has_sha256(expected))
        hashes = self._result_hashes()
        if hashes:
            results = self._find(self._metadata["results"])
            for name, expected in hashes.items():
                self._get(results, name, part / name, _has_sha256(expected))

    def _result_hashes(self) -> dict[str, str]:
        """Files of the results that belong to the checkpoint → their SHA-256."""
        return dict(self._metadata.get("results_sha256", {}))

    def _get(
        self,
        artifact: Any,
        name: str,
        target: Path,
        validate: Validator,
        limit: int | None = None,
    ) -> None:
        """Download one file, and retry when the connection breaks or the file is invalid."""
        reasons: list[str] = []
        for pause in (0.0, *_PAUSES):
            self.transfer.pause(pause)
            fresh = target.parent / f".{uuid.uuid4().hex}"
            try:
                self._get_once(artifact, name, fresh, limit)
                if (reason := validate(fresh / name)) is None:
                    os.replace(fresh / name, target)
                    return
                reasons.append(reason)
            except (UserError, OverLimitError):
                raise
            except KeyError as error:
                raise UserError(f"{self.address}: it holds no {name}") from error
            except Exception as error:  # the client's errors have no class in common
                reasons.append(explain(error))
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(
            f"{self.address}: {name} could not be fetched: {'; '.join(dict.fromkeys(reasons))}"
        )

    def _get_once(self, artifact: Any, name: str, folder: Path, limit: int | None) -> None:
        """Let the client download one file into `folder`, if the limits have room for it."""
        entry = self.transfer.bounded(partial(artifact.get_entry, name))
        if entry.ref is not None:
            raise UserError(f"{self.address}: {name} is a mere reference to {entry.ref}")
        if limit is not None and not 0 <= (entry.size or 0) <= limit:
            raise UserError(f"{self.address}: {name} has more than {limit:,} bytes")
        self.transfer.remaining(entry.size or 0)

        def download() -> None:
            # Not Artifact.download(): when the process ends, it waits for its pool of threads, for
            # as long as the server likes. It sets the same address.
            for file in artifact.files(names=[name], per_page=1):
                entry._download_url = file.direct_url
            entry.download(root=str(folder), skip_cache=True)

        self.transfer.bounded(download, lambda: _size(folder))
        self.transfer.count(_size(folder))


def _size(folder: Path) -> int:
    """Bytes of the files below it, which may be moved meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _has_sha256(expected: str) -> Validator:
    def validate(path: Path) -> str | None:
        actual = digest(path)
        return None if actual == expected else f"its SHA-256 is {actual}, not {expected}"

    return validate


def _is_sidecar_of(expected: str) -> Validator:
    def validate(path: Path) -> str | None:
        with suppress(OSError, ValueError):
            if sidecars.read_file(path)["sha256"] == expected:
                return None
        return "it is not that of the checkpoint"

    return validate
