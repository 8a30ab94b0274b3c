"""References `wandb://entity/project/name:alias`: W&B artifacts fetched as a small run folder.

The folder holds a checkpoint beside the results that belong to it, so that a run can be resumed
from it on any machine. Which run folder that is follows from the name that the user typed, never
from the artifact's metadata, which anybody may have written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.checkpoint.remote.references import RemoteReference, Scheme, require_pin
from perdure.errors import UserError
from perdure.io.transfer import DEFAULT_LIMITS, Limits, OverLimitError, Transfer
from perdure.wandb.artifact_download import MOST_SHOWN, ArtifactDownload
from perdure.wandb.session import NO_KEY, explain, key_configured, prepare_environment

FORM = "wandb://entity/project/name:alias (an alias, vN, or a digest)"
_FORM = re.compile(r"wandb://([^/:]+)/([^/:]+)/([^/:]+):([^/:]+)(?:/(.+))?")
_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_RUN = re.compile(r"(?:ckpt-)?(\d{8}-\d{6})(?:-([A-Za-z0-9][A-Za-z0-9._-]*))?-[0-9a-f]{4,}", re.A)
_TIMEOUT = 20
"""Seconds for one answer."""


@dataclass(frozen=True)
class Fetched:
    """An artifact's checkpoint on this machine.

    Attributes:
        path: the file, in a folder `checkpoints` beside the results that belong to it.
        artifact: `entity/project/name:vN`, the version that the reference meant.
        newest: whether it is the last one that its run has sent.
        run_id: the W&B run that it is of; None when no run of this package has sent it, or it is
            not called as that run calls its own.
        place: where that run lies below the folder of all runs: `<timestamp>[/<job>]`, by the
            artifact's name; None when no run of this package has sent it.
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
    """The checkpoint that `wandb://entity/project/name:alias` names.

    A path after the alias chooses a file of an artifact that no run of this package has sent.
    `limits`: of all requests and downloads together.

    Raises:
        UserError: the reference is invalid, there is no such artifact, the server does not answer
            or does not allow it, what arrives is not what was sent, or it exceeds the limits.
    """
    match = _FORM.fullmatch(address)
    if match is None:
        raise UserError(f"{address}: must be {FORM}")
    prepare_environment()
    if not key_configured():
        raise UserError(f"{address}: {NO_KEY}")
    entity, project, name, alias, file = match.groups()
    transfer = Transfer(limits)
    try:
        collection = _Collection(address, f"{entity}/{project}/{name}", transfer)
        version = collection.version(alias)
        download = ArtifactDownload(address, version.artifact, cache, transfer, collection.named)
        path = download.fetch(file)
    except OverLimitError as limit:
        raise UserError(f"{address} could not be fetched: {limit}") from limit
    if not download.is_checkpoint:
        return Fetched(path, download.name, version.newest)
    return Fetched(path, download.name, version.newest, download.run_id, place_of(name))


def scheme(on_fetched: Callable[[Fetched], None]) -> Scheme:
    """How references to artifacts are written and fetched, for `references.resolve`.

    Args:
        on_fetched: called with the artifact, of which that gives the path alone.
    """

    def fetch_path(reference: RemoteReference) -> Path:
        fetched = fetch(reference.address, reference.cache, limits=reference.transfer.limits)
        on_fetched(fetched)
        return require_pin(fetched.path, reference)

    return Scheme("wandb://entity/project/name:alias", fetch_path)


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
        self._api = self._request(self._connect)

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
            shown = ", ".join(_shown(v) for v in self._all(latest)[:MOST_SHOWN])
            there_is = f"{self.name} has {shown}" if shown else "there is no artifact of that name"
            raise UserError(f"{self.address}: no such version, or no right to see it; {there_is}")
        return _Version(found, latest is not None and latest.version == found.version)

    def named(self, name: str) -> Any:
        """Another artifact, by its full name."""
        return self._request(lambda: self._api.artifact(name))

    def _find(self, alias: str) -> Any:
        def request() -> Any:
            from wandb.errors import CommError

            try:
                return self._api.artifact(f"{self.name}:{alias}")
            except ValueError:
                return None
            except CommError as error:
                if isinstance(error.exc, ValueError):  # there is no such artifact
                    return None
                raise

        return self._request(request)

    def _all(self, version: Any) -> list[Any]:
        """All versions, given any of them."""
        if version is None:
            return []
        kind = version.type
        versions: list[Any] = self._request(lambda: list(self._api.artifacts(kind, self.name)))
        return versions

    def _connect(self) -> Any:
        import wandb

        return wandb.Api(timeout=_TIMEOUT)

    def _request(self, ask: Callable[[], Any]) -> Any:
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
