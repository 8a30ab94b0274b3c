"""GraphQL's queries and mutations, as far as runs and artifacts need them.

Assumed, since nothing documents it: the statuses of refusals other than 403; that a commit whose
content was committed meanwhile by another client becomes that version; that after the version
with `latest` is deleted nobody has it until the next commit.
"""

# ruff: noqa: N802, N803 — GraphQL's own names

from __future__ import annotations

from typing import Any, ClassVar

from wandb_server.artifacts import Artifact, ArtifactSequence
from wandb_server.blobs import Blobs, gid
from wandb_server.graphql import connection
from wandb_server.refusals import (
    RefusedError,
    check_alias,
    check_collection,
    check_metadata,
    check_project,
    check_run_id,
    denied,
)
from wandb_server.runs import ENTITY, Project, Run


class Root:
    """The roots' fields are its methods; a caller holds the server's lock."""

    viewer: ClassVar[dict[str, Any]] = {
        **{"__typename": "User", "id": gid("User", ENTITY), "entity": ENTITY, "flags": "{}"},
        **{"username": ENTITY, "name": ENTITY},
        **{"teams": connection([]), "apiKeys": connection([])},
    }

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.entities = {ENTITY}
        self.denied: set[tuple[str, str]] = set()
        self.projects: dict[tuple[str, str], Project] = {}
        self.artifacts: dict[str, Artifact] = {}

    def permit(self, entity: str, project: str) -> None:
        if {(entity, project), (entity, "*")} & self.denied:
            raise denied()

    def project(self, name: str | None = None, entityName: str | None = None) -> Project | None:
        key = (entityName or ENTITY, name or "uncategorized")
        self.permit(*key)
        return self.projects.get(key)

    model = project

    def artifact(self, id: str) -> Artifact | None:
        found = self.artifacts.get(id)
        if found:
            project = found.artifactSequence.project
            self.permit(project.entity["name"], project.name)
        return found

    def known(self, id: str) -> Artifact:
        found = self.artifact(id)
        if found is None:
            raise RefusedError("artifact not found", 404)
        return found

    def known_run(self, entity: str, project: str, name: str) -> Run:
        found = self.project(project, entity)
        run = found.run(name) if found else None
        if run is None:
            raise RefusedError(f"run {entity}/{project}/{name} not found", 404)
        return run

    def _created(self, name: str | None, entity: str | None) -> Project:
        key = (entity or ENTITY, name or "uncategorized")
        if key[0] not in self.entities:
            raise RefusedError(f"entity {key[0]} not found during upsertBucket", 404)
        self.permit(*key)
        check_project(key[1])
        return self.projects.setdefault(key, Project(*key))

    def upsertBucket(self, input: dict[str, Any]) -> dict[str, Any]:
        project = self._created(input.get("modelName"), input.get("entityName"))
        by_id = (r for r in project.run_by_name.values() if r.id == input.get("id"))
        run = next(by_id, None) or project.run(str(input.get("name")))
        inserted = run is None
        if run is None:
            check_run_id(input["name"])
            run = project.run_by_name[input["name"]] = Run(project, input["name"])
        run.update(input)
        return {"bucket": run, "inserted": inserted}

    def createRunFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        run = self.known_run(input["entityName"], input["projectName"], input["runName"])
        names = input["files"]
        run.uploaded.update({n: Blobs.name("run", f"{run.id}/{n}") for n in names})
        files = [self.blobs.offer(name, run.uploaded[name]) for name in names]
        return {"runID": run.id, "files": files}

    def createArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        project = self._created(input["projectName"], input["entityName"])
        name = input.get("runName")
        run = self.known_run(project.entity["name"], project.name, name) if name else None
        sequence = self._sequence(
            project, input["artifactCollectionName"], input["artifactTypeName"]
        )
        artifact = sequence.with_digest(input["digest"])
        if artifact:  # the same content: no new version, but the aliases move
            artifact.wants(input)
            artifact.commit()
        else:
            artifact = Artifact(sequence, run, input, self.blobs)
            project.sequences[sequence.name] = sequence
            artifact = self.artifacts.setdefault(artifact.id, artifact)
        return {"artifact": artifact}

    @staticmethod
    def _sequence(project: Project, name: str, type_: str) -> ArtifactSequence:
        check_collection(name)
        sequence = project.sequences.get(name) or ArtifactSequence(project, name, type_)
        if sequence.type != type_:
            raise RefusedError(f"{name} is of type {sequence.type}, not {type_}", 409)
        return sequence

    def createArtifactManifest(self, input: dict[str, Any]) -> dict[str, Any]:
        """Asked twice: without a digest, and with the digest of what is then uploaded."""
        artifact = self.known(input["artifactID"])
        md5 = input.get("digest") or ""
        artifact.currentManifest["file"] = self.blobs.offer(
            "wandb_manifest.json", artifact.manifest_blob, md5
        )
        return {"artifactManifest": artifact.currentManifest}

    def createArtifactFiles(self, input: dict[str, Any]) -> dict[str, Any]:
        return {"files": connection([self._artifact_file(s) for s in input["artifactFiles"]])}

    def _artifact_file(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Content-addressed: what is here is not asked for again."""
        blob = Blobs.name("blob", spec["md5"])
        artifact = self.known(spec["artifactID"])
        node = self.blobs.offer(spec["name"], blob, spec["md5"], artifact=artifact)
        if self.blobs.has(blob):
            node["uploadUrl"] = None
        return node

    def commitArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        twin = artifact.artifactSequence.with_digest(artifact.digest)
        if twin and twin is not artifact:
            twin.take(artifact)
            artifact = self.artifacts[input["artifactID"]] = twin
        artifact.commit()
        return {"artifact": artifact}

    def useArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        run = self.known_run(input["entityName"], input["projectName"], input["runName"])
        if artifact not in run.inputs:
            run.inputs.append(artifact)
            artifact.users.append(run)
        return {"artifact": artifact}

    def updateArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        check_metadata(input.get("metadata"))
        for field in ("description", "metadata", "ttlDurationSeconds"):
            if input.get(field) is not None:
                setattr(artifact, field, input[field])
        return {"artifact": artifact}

    def addAliases(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        names = [item["alias"] for item in input["aliases"]]
        for name in names:
            check_alias(name)
        artifact.artifactSequence.by_alias.update(dict.fromkeys(names, artifact))
        return {"success": True}

    def deleteAliases(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        by_alias = artifact.artifactSequence.by_alias
        for item in input["aliases"]:
            if by_alias.get(item["alias"]) is artifact:
                del by_alias[item["alias"]]
        return {"success": True}

    def deleteArtifact(self, input: dict[str, Any]) -> dict[str, Any]:
        artifact = self.known(input["artifactID"])
        artifact.delete(bool(input.get("deleteAliases")))
        del self.artifacts[input["artifactID"]]
        return {"artifact": artifact}
