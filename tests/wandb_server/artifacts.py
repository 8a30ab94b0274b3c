"""Artifact collections and their versions; attributes are named as GraphQL's fields."""

# ruff: noqa: N802, N803, N815 — GraphQL's own names

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wandb_server.blobs import Blobs, gid, now
from wandb_server.graphql import connection
from wandb_server.refusals import RefusedError, check_alias, check_metadata

if TYPE_CHECKING:
    from wandb_server.runs import Project, Run


class ArtifactSequence:
    """A collection: its versions, and which of them each alias names."""

    def __init__(self, project: Project, name: str, type_: str) -> None:
        self.project, self.name, self.type = project, name, type_
        self.id = gid("Collection", project.id, name)
        self.defaultArtifactType = {"name": type_}
        self.versions: list[Artifact] = []
        self.by_alias: dict[str, Artifact] = {}
        self._committed = 0

    @property
    def latestArtifact(self) -> Artifact | None:
        return self.by_alias.get("latest")

    def artifacts(self, **_: Any) -> dict[str, Any]:
        return connection(self.versions[::-1])

    def version(self, alias: str) -> Artifact | None:
        """By alias or as v3."""
        numbered = {f"v{a.versionIndex}": a for a in self.versions}
        return self.by_alias.get(alias) or numbered.get(alias)

    def with_digest(self, digest: str) -> Artifact | None:
        return next((a for a in self.versions if a.digest == digest), None)

    def append(self, artifact: Artifact) -> int:
        """The new version's number; one that was deleted is never given again."""
        self.versions.append(artifact)
        self._committed += 1
        return self._committed - 1

    def remove(self, artifact: Artifact) -> None:
        self.versions.remove(artifact)
        self.by_alias = {k: v for k, v in self.by_alias.items() if v is not artifact}

    def artifactMembership(self, aliasName: str) -> dict[str, Any] | None:
        artifact = self.version(aliasName)
        if artifact is None:
            return None
        return {
            **{"__typename": "ArtifactCollectionMembership", "id": gid("Member", artifact.id)},
            **{"artifactCollection": self, "artifact": artifact, "files": artifact.files},
            **{k: getattr(artifact, k) for k in ("createdAt", "versionIndex", "aliases")},
        }


class Artifact:
    """One version, PENDING until its commit."""

    digestAlgorithm = "MANIFEST_MD5"

    def __init__(
        self, sequence: ArtifactSequence, run: Run | None, spec: dict[str, Any], blobs: Blobs
    ) -> None:
        self.artifactSequence, self.createdBy, self.blobs = sequence, run, blobs
        self.id, self.digest = gid("Artifact", spec["clientID"]), str(spec["digest"])
        self.artifactType: dict[str, Any] = sequence.defaultArtifactType
        self.state, self.versionIndex = "PENDING", -1
        self.size = self.fileCount = 0
        self.tags: list[dict[str, Any]] = []
        self.createdAt = self.updatedAt = now()
        self.description, self.historyStep = spec.get("description"), spec.get("historyStep")
        check_metadata(spec.get("metadata"))
        self.metadata = spec.get("metadata")
        self.ttlDurationSeconds = spec.get("ttlDurationSeconds") or -1
        self.ttlIsInherited = self.ttlDurationSeconds < 0
        self.entries: dict[str, dict[str, Any]] = {}
        self.users: list[Run] = []
        self.manifest_blob = Blobs.name("manifest", self.id)
        self.currentManifest: dict[str, Any] = {"id": gid("Manifest", self.id)}
        self.wants(spec)

    def wants(self, spec: dict[str, Any]) -> None:
        """Aliases to take at the commit; `latest` always goes to what was logged last."""
        aliases = [str(a["alias"]) for a in spec.get("aliases") or ()]
        for alias in aliases:
            check_alias(alias)
        self._wanted = [*aliases, "latest"]

    def take(self, twin: Artifact) -> None:
        """The aliases that another upload of the same content wanted."""
        self._wanted = twin._wanted

    def commit(self) -> None:
        """Become a version (once) with what the manifest lists, and take the aliases."""
        if self.state == "DELETED":
            raise RefusedError("artifact was deleted", 404)
        if self.state == "PENDING":
            self.entries = self._manifest()
            self.size = sum(e.get("size", 0) for e in self.entries.values())
            self.fileCount = len(self.entries)
            self.state, self.versionIndex = "COMMITTED", self.artifactSequence.append(self)
            if self.createdBy:
                self.createdBy.outputs.append(self)
        self.artifactSequence.by_alias.update(dict.fromkeys(self._wanted, self))

    def _manifest(self) -> dict[str, dict[str, Any]]:
        """The uploaded manifest's entries; each stored file must be here in its full size."""
        if not self.blobs.has(self.manifest_blob):
            raise RefusedError("artifact has no manifest", 400)
        text = self.blobs.path(self.manifest_blob).read_text()
        entries: dict[str, dict[str, Any]] = json.loads(text)["contents"]
        for name, entry in entries.items():
            if "ref" in entry:
                continue
            path = self.blobs.path(blob_of(entry))
            if not path.is_file() or path.stat().st_size != entry["size"]:
                raise RefusedError(f"file {name!r} of the artifact was never uploaded", 400)
        return entries

    def delete(self, with_aliases: bool) -> None:
        if self.aliases and not with_aliases:
            raise RefusedError("artifact has aliases; delete them as well, or first", 400)
        self.state = "DELETED"
        self.artifactSequence.remove(self)

    def read(self, name: str) -> bytes:
        """For tests: a stored file."""
        return self.blobs.path(blob_of(self.entries[name])).read_bytes()

    @property
    def aliases(self) -> list[dict[str, Any]]:
        sequence = self.artifactSequence
        return [
            {
                **{"__typename": "ArtifactAlias", "id": gid(self.id, name), "alias": name},
                "artifactCollection": sequence,
            }
            for name, artifact in sequence.by_alias.items()
            if artifact is self
        ]

    def usedBy(self, **_: Any) -> dict[str, Any]:
        return connection(self.users)

    def files(self, names: list[str] | None = None, **_: Any) -> dict[str, Any]:
        stored = {k: e for k, e in self.entries.items() if "ref" not in e}
        chosen = {k: e for k, e in stored.items() if not names or k in names}
        return connection(
            [self.blobs.file(k, blob_of(e), sizeBytes=e["size"]) for k, e in chosen.items()]
        )


def blob_of(entry: dict[str, Any]) -> str:
    """Where a manifest's entry lies: content-addressed by its md5."""
    return Blobs.name("blob", entry["digest"])
