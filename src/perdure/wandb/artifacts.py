"""Checkpoints kept as W&B artifacts, fetched as a small run folder that others can go on from.

W&B does not notice a corrupt download (and would keep it), so what is believed are our own
hashes: that in the sidecar, which the artifact's metadata repeats, and those of the results.
Anybody may have written that metadata: it names files of the artifact and of its own project's
results, and nothing else; where a run goes on follows from the name that the user typed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import sidecars
from perdure.checkpoint.remote.references import RemoteReference, Scheme, require_pin
from perdure.errors import UserError
from perdure.io.atomic import publish
from perdure.io.files import digest, matches, writing
from perdure.io.locking import locked
from perdure.io.transfer import DEFAULT_LIMITS, Limits, OverLimitError, Transfer
from perdure.wandb.record import is_artifact, is_id
from perdure.wandb.session import NO_KEY, explain, key_configured, prepare_environment

FORM = "wandb://entity/project/name:alias (an alias, vN, or a digest)"
_FORM = re.compile(r"wandb://([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)(?:/(.+))?")
_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_RUN = re.compile(r"(?:ckpt-)?(\d{8}-\d{6})(?:-([A-Za-z0-9][A-Za-z0-9._-]*))?-[0-9a-f]{4,}", re.A)
_FILE = re.compile(r"[^/\\\x00-\x1f]{1,250}\.pth?")
_HISTORY = ("results.json", "metrics.jsonl", "accuracy.csv", "recorders.json")
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin")
_TIMEOUT = 20  # seconds for one answer
_PAUSES = (0.5, 2.0, 8.0)
_TOLD = 12
Flaw = Callable[[Path], str | None]
"""What is wrong with a file that has arrived, if anything is."""


@dataclass(frozen=True)
class Fetched:
    """An artifact's checkpoint on this machine.

    Attributes:
        path: the file, in a folder `checkpoints` beside the results that belong to it.
        artifact: `entity/project/name:vN`, the version that the reference meant.
        newest: whether it is the last one that its run has sent.
        run_id: the W&B run that it is of; none when the artifact is not ours, or is not called as
            that run calls its own.
        place: where that run lies below the folder of all runs: `<timestamp>[/<job>]`, by the
            artifact's name; none when the artifact is not ours.
    """

    path: Path
    artifact: str
    newest: bool
    run_id: str | None = None
    place: str | None = None

    @property
    def pinned(self) -> str:
        """The same reference, but to this version whatever happens to the alias."""
        return f"wandb://{self.artifact}"


def fetch(address: str, cache: Path, *, limits: Limits = DEFAULT_LIMITS) -> Fetched:
    """The checkpoint that `wandb://entity/project/name:alias` names; asked for once a process.

    A path after the alias chooses a file of an artifact that is not ours. `limits`: of all that
    is asked for and sent, together.

    Raises:
        UserError: the reference or the artifact is none, the server cannot be asked or does not
            allow it, what arrives is not what was sent, or it exceeds the limits.
    """
    return _reference(address, cache).fetch(limits)


def resolve(reference: RemoteReference) -> Path:
    """The file that a reference `wandb://…` means, for `checkpoint.remote.references.resolve`.

    Raises:
        UserError: as `fetch`, or it is not what its pin says.
    """
    path = fetch(reference.address, reference.cache, limits=reference.transfer.limits).path
    return require_pin(path, reference)


SCHEME = Scheme("wandb://entity/project/name:alias", resolve)
"""How references to artifacts are written and fetched."""


@lru_cache
def _reference(address: str, cache: Path) -> _Reference:
    """One for each address and cache in this process, whatever the limits of each call."""
    return _Reference(address, cache)


class _Reference:
    """An address, and its checkpoint as soon as that is known."""

    def __init__(self, address: str, cache: Path) -> None:
        self.address = address
        self.cache = cache
        self._fetched: Fetched | None = None

    def fetch(self, limits: Limits) -> Fetched:
        if self._fetched is None:
            match = _FORM.fullmatch(self.address)
            if match is None:
                raise UserError(f"{self.address}: must be {FORM}")
            prepare_environment()
            if not key_configured():
                raise UserError(f"{self.address}: {NO_KEY}")
            try:
                self._fetched = self._ask(Transfer(limits), *match.groups())
            except OverLimitError as limit:
                raise UserError(f"{self.address} could not be fetched: {limit}") from limit
        return self._fetched

    def _ask(
        self, transfer: Transfer, entity: str, project: str, name: str, alias: str, file: str | None
    ) -> Fetched:
        of = _Collection(self.address, f"{entity}/{project}/{name}", transfer)
        found = of.version(alias)
        download = _Download(self.address, found.artifact, self.cache, transfer)
        return download.run(found.newest, file, place_of(name))


def place_of(name: str) -> str:
    """Where the run whose artifact is called `name` lies below the folder of all runs.

    `ckpt-20261122-045600-3f9a` → `20261122-045600`, `ckpt-20261122-045600-3-3f9a` (a sweep's job)
    → `20261122-045600/3`; of any other name one folder.
    """
    if match := _RUN.fullmatch(name):
        return "/".join(filter(None, match.groups()))
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", name.removeprefix("ckpt-")).lstrip(".")
    return safe[:100] or "run"


@dataclass(frozen=True)
class _Version:
    artifact: Any
    newest: bool


class _Collection:
    """All versions of an artifact, on the server."""

    def __init__(self, address: str, name: str, transfer: Transfer) -> None:
        self.address = address
        self.name = name
        self._transfer = transfer
        self._api = self._asked(self._connect)

    def version(self, alias: str) -> _Version:
        """The version that `alias`, `vN` or a digest names.

        Raises:
            UserError: there is none.
        """
        latest = self._find("latest")
        found = latest if alias == "latest" else self._find(alias)
        if found is None and _DIGEST.fullmatch(alias):
            found = next((v for v in self._all(latest) if alias in _digests(v)), None)
        if found is None:
            there = ", ".join(_shown(v) for v in self._all(latest)[:_TOLD])
            known = f"{self.name} has {there}" if there else "there is no artifact of that name"
            raise UserError(f"{self.address}: no such version, or no right to see it; {known}")
        return _Version(found, latest is not None and latest.version == found.version)

    def named(self, name: str) -> Any:
        """Another artifact, by its full name."""
        return self._asked(lambda: self._api.artifact(name))

    def _find(self, alias: str) -> Any:
        def ask() -> Any:
            from wandb.errors import CommError

            try:
                return self._api.artifact(f"{self.name}:{alias}")
            except ValueError:
                return None
            except CommError as error:
                if isinstance(error.exc, ValueError):  # there is no such artifact
                    return None
                raise

        return self._asked(ask)

    def _all(self, one: Any) -> list[Any]:
        if one is None:
            return []
        found: list[Any] = self._asked(lambda: list(self._api.artifacts(one.type, self.name)))
        return found

    def _connect(self) -> Any:
        import wandb

        return wandb.Api(timeout=_TIMEOUT)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return self._transfer.bounded(ask)
        except OverLimitError:
            raise
        except Exception as error:  # the client's errors have no class in common
            raise UserError(f"{self.address}: W&B did not answer: {explain(error)}") from error


def _digests(version: Any) -> tuple[str, ...]:
    return (str(version.digest), str((version.metadata or {}).get("sha256")))


def _shown(version: Any) -> str:
    aliases = sorted(a for a in version.aliases if a != version.version)
    return f"{version.version} ({', '.join(aliases)})" if aliases else str(version.version)


class _Download:
    """Brings one artifact into a folder of the cache that appears whole or not at all."""

    def __init__(self, address: str, artifact: Any, cache: Path, transfer: Transfer) -> None:
        self.address = address
        self.artifact = artifact
        self.transfer = transfer
        self.metadata: Mapping[str, Any] = artifact.metadata or {}
        self.name = f"{artifact.entity}/{artifact.project}/{artifact.source_name}"
        self.folder = cache / "wandb"

    def run(self, newest: bool, wanted: str | None, place: str) -> Fetched:
        ours = isinstance(self.metadata.get("file"), str) and "run" in self.metadata
        file = self._told() if ours else self._choose(wanted)
        self.folder /= self._key(file)
        path = self.folder / "checkpoints" / Path(file).name
        with locked(self.folder, "PERDURE_CACHE"):
            if not self._is_there(path, ours):  # nor has the process waited for fetched it
                self._bring(path, file, ours)
        if not ours:
            return Fetched(path, self.name, newest)
        run_id = self.metadata["run"]
        its_own = str(self.artifact.source_name).rpartition(":")[0] == f"ckpt-{run_id}"
        return Fetched(path, self.name, newest, run_id if its_own else None, place)

    def _told(self) -> str:
        """The checkpoint's file, by metadata in which all is as it should be."""
        known = self.metadata
        project = self.name.rpartition("/")[0]
        results, hashes = known.get("results"), known.get("results_sha256", {})
        sound = {
            "file": isinstance(known["file"], str)
            and _FILE.fullmatch(known["file"]) is not None
            and not known["file"].startswith("."),
            "run": is_id(known["run"]),
            "sha256": sidecars.is_sha256(known.get("sha256")),
            "results_sha256": isinstance(hashes, Mapping)
            and hashes.keys() <= set(_HISTORY)
            and all(map(sidecars.is_sha256, hashes.values())),
            "results": not hashes
            or (is_artifact(results) and str(results).startswith(f"{project}/results-")),
        }
        for key, is_sound in sound.items():
            if not is_sound:
                shown = json.dumps(known.get(key), default=str)[:100]
                raise UserError(f"{self.address}: its {key} is {shown}, which is no such value")
        return str(known["file"])

    def _key(self, file: str) -> str:
        """The folder's name: of this file as it is in this version, whoever is called the same."""
        what = json.dumps([self.name, self.artifact.digest, file])
        shown = re.sub("[^A-Za-z0-9._-]", "-", self.artifact.source_name)
        return f"{shown}-{sha256(what.encode()).hexdigest()[:16]}"

    def _is_there(self, path: Path, ours: bool) -> bool:
        if not ours:
            return path.is_file()
        return matches(path, sha256=self.metadata["sha256"]) and all(
            (self.folder / name).is_file() for name in self._results()
        )

    def _bring(self, path: Path, file: str, ours: bool) -> None:
        with writing(self.folder.parent, "PERDURE_CACHE"):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            part = self.folder.with_name(f"{self.folder.name}.{uuid.uuid4().hex}.part")
            (part / "checkpoints").mkdir(parents=True)
        try:
            target = part / "checkpoints" / path.name
            if ours:
                self._take_ours(target, part)
            else:
                self._get(self.artifact, file, target, lambda path: None)
            shutil.rmtree(self.folder, ignore_errors=True)
            publish(part, self.folder, "PERDURE_CACHE")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _take_ours(self, target: Path, part: Path) -> None:
        sidecar, known = sidecars.path_of(target), self.metadata["sha256"]
        self._get(self.artifact, sidecar.name, sidecar, _sidecar_of(known), sidecars.LIMIT)
        self._get(self.artifact, target.name, target, _hashed(known))
        results = self._results()
        if results:
            of = _Collection(self.address, self.name, self.transfer)
            source = of.named(self.metadata["results"])
            for name, known in results.items():
                self._get(source, name, part / name, _hashed(known))

    def _results(self) -> dict[str, str]:
        """Files of the results that belong to the checkpoint → their SHA-256."""
        return dict(self.metadata.get("results_sha256", {}))

    def _choose(self, wanted: str | None) -> str:
        names = self.transfer.bounded(lambda: list(self.artifact.manifest.entries))
        likely = [name for name in names if name.endswith(_WEIGHTS)] or names
        if wanted is None and len(likely) == 1:
            return str(likely[0])
        if wanted in names:
            return str(wanted)
        what = "holds no file" if wanted is None and not names else "choose one of its files"
        told = ", ".join(names[:_TOLD])
        raise UserError(f"{self.address}: {what} (wandb://{self.name}/FILE): {told}")

    def _get(
        self, artifact: Any, name: str, target: Path, flaw: Flaw, limit: int | None = None
    ) -> None:
        """One file, asked for again when it breaks off or is not what it should be."""
        reasons: list[str] = []
        for pause in (0.0, *_PAUSES):
            self.transfer.pause(pause)
            fresh = target.parent / f".{uuid.uuid4().hex}"
            try:
                self._bring_one(artifact, name, fresh, limit)
                if (what := flaw(fresh / name)) is None:
                    os.replace(fresh / name, target)
                    return
                reasons.append(what)
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

    def _bring_one(self, artifact: Any, name: str, folder: Path, limit: int | None) -> None:
        """Lets the client put one file below `folder`, if there is room for it in the limits."""
        entry = self.transfer.bounded(partial(artifact.get_entry, name))
        if entry.ref is not None:
            raise UserError(f"{self.address}: {name} is a mere reference to {entry.ref}")
        if limit is not None and not 0 <= (entry.size or 0) <= limit:
            raise UserError(f"{self.address}: {name} has more than {limit:,} bytes")
        self.transfer.remaining(entry.size or 0)

        def bring() -> None:
            # Not Artifact.download(): its pool of threads would be waited for when the process
            # ends, for as long as the server likes. It sets the same address.
            for file in artifact.files(names=[name], per_page=1):
                entry._download_url = file.direct_url
            entry.download(root=str(folder), skip_cache=True)

        self.transfer.bounded(bring, lambda: _size(folder))
        self.transfer.count(_size(folder))


def _size(folder: Path) -> int:
    """Bytes of the files below it, which may be moved meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def _hashed(known: str) -> Flaw:
    def flaw(path: Path) -> str | None:
        found = digest(path)
        return None if found == known else f"its SHA-256 is {found}, not {known}"

    return flaw


def _sidecar_of(known: str) -> Flaw:
    def flaw(path: Path) -> str | None:
        with suppress(OSError, ValueError):
            if sidecars.read_file(path)["sha256"] == known:
                return None
        return "it is not that of the checkpoint"

    return flaw
