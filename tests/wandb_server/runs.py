"""Projects and runs; attributes are named as GraphQL's fields."""

# ruff: noqa: N802, N803, N815 — GraphQL's own names

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from wandb_server.artifacts import Artifact, ArtifactSequence
from wandb_server.blobs import gid, now
from wandb_server.graphql import connection

ENTITY = "tester"  # whose the API key is
HISTORY, EVENTS, SUMMARY = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json"
RENAMED = {"groupName": "group", "sweep": "sweepName"}
NOT_KEPT = {"id", "name", "modelName", "entityName"}


class Project:
    def __init__(self, entity: str, name: str) -> None:
        self.name, self.entity, self.createdAt = name, {"id": gid(entity), "name": entity}, now()
        self.id = self.internalId = gid("Project", entity, name)
        self.run_by_name: dict[str, Run] = {}
        self.sequences: dict[str, ArtifactSequence] = {}

    def runs(self, **_: Any) -> dict[str, Any]:
        return connection([*self.run_by_name.values()])

    def run(self, name: str, missingOk: bool = True) -> Run | None:
        return self.run_by_name.get(name)

    bucket = run

    def artifactCollection(self, name: str) -> ArtifactSequence | None:
        return self.sequences.get(name)

    def artifactType(self, name: str) -> dict[str, Any]:
        """Also asked for a type that is not there yet, when an artifact is logged."""

        def collections(**_: Any) -> dict[str, Any]:
            return connection([s for s in self.sequences.values() if s.type == name])

        def collection(name: str) -> ArtifactSequence | None:
            return self.sequences.get(name)

        return {
            **{"id": gid("Type", name), "name": name},
            **{"artifactCollection": collection, "artifactCollections": collections},
        }

    def artifactCollectionMembership(self, name: str) -> dict[str, Any] | None:
        collection, _, alias = name.partition(":")
        sequence = self.sequences.get(collection)
        return sequence.artifactMembership(alias or "latest") if sequence else None

    def artifact(self, name: str) -> Artifact | None:
        found = self.artifactCollectionMembership(name)
        return found["artifact"] if found else None


class Run:
    projectId = 1

    def __init__(self, project: Project, name: str) -> None:
        self.project, self.name, self.displayName = project, name, f"run-{name}"
        self.id, self.createdAt, self.heartbeatAt = gid("Run", project.id, name), now(), now()
        self.user = {"name": ENTITY, "username": ENTITY}
        self.state, self.stopped = "running", False  # `stopped`: the page's Stop button
        self.exitcode: int | None = None
        self.config = self.summaryMetrics = "{}"
        self.group: str | None = None
        self.jobType: str | None = None
        self.notes: str | None = None
        self.tags: list[str] = []
        self.stream: dict[str, list[str]] = {}  # file -> lines
        self.uploaded: dict[str, str] = {}  # file -> blob
        self.inputs: list[Artifact] = []
        self.outputs: list[Artifact] = []

    def update(self, fields: dict[str, Any]) -> None:
        """What an upsert says; it starts a run again that has ended.

        Assumed: one that is message to be preempted stays so when its config is updated at its end.
        """
        if self.state != "preempting":
            self.state, self.exitcode = "running", None
        for key, value in fields.items():
            if value is not None and key not in NOT_KEPT:
                setattr(self, RENAMED.get(key, key), value)

    def receive(self, body: dict[str, Any]) -> Iterator[str]:
        """One message of the file stream; yields what is wrong with it."""
        self.heartbeatAt = now()
        for file, chunk in (body.get("files") or {}).items():
            held = self.stream.setdefault(file, [])
            if file in (HISTORY, EVENTS):
                yield from self._misplaced(file, held, chunk["offset"], chunk["content"])
            _write(held, chunk["offset"], chunk["content"])
        if self.stream.get(SUMMARY):
            self.summaryMetrics = self.stream[SUMMARY][-1]
        if body.get("preempting"):
            self.state = "preempting"
        if body.get("complete"):
            self.exitcode = int(body.get("exitcode") or 0)
            failed = "preempted" if self.state == "preempting" else "failed"
            self.state = failed if self.exitcode else "finished"

    def _misplaced(
        self, file: str, held: list[str], offset: int, lines: list[str]
    ) -> Iterator[str]:
        """Rows of append-only files that another row was held for, or that leave a gap.

        The same row again is no problem: a client repeats what was not acknowledged.
        """
        where = f"{self.name}/{file}"
        if offset > len(held):
            yield f"{where}: rows {len(held)}…{offset - 1} are missing"
        for number, (old, new) in enumerate(zip(held[offset:], lines, strict=False), offset):
            if old != new:
                yield f"{where}: row {number} was {old} and is overwritten by {new}"
        if file == HISTORY:
            yield from self._steps_back(where, held, offset, lines)

    @staticmethod
    def _steps_back(where: str, held: list[str], offset: int, lines: list[str]) -> Iterator[str]:
        new = lines[max(0, len(held) - offset) :]
        steps = [json.loads(line).get("_step") for line in [*held[-1:], *new] if line]
        for before, after in pairwise(steps):
            if before is not None and after is not None and after <= before:
                yield f"{where}: step {after} comes after step {before}"

    def rows(self, file: str = HISTORY) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.get(file, []) if line]

    def config_values(self) -> dict[str, Any]:
        """For tests: the config as the user gave it."""
        return {k: v["value"] for k, v in json.loads(self.config).items() if k != "_wandb"}

    def summary(self) -> dict[str, Any]:
        """For tests."""
        found: dict[str, Any] = json.loads(self.summaryMetrics)
        return found

    def inputArtifacts(self, **_: Any) -> dict[str, Any]:
        return connection(self.inputs)

    def outputArtifacts(self, **_: Any) -> dict[str, Any]:
        return connection(self.outputs)

    def _count(self, file: str) -> int:
        return len(self.stream.get(file, []))

    historyLineCount = property(lambda self: self._count(HISTORY))
    eventsLineCount = property(lambda self: self._count(EVENTS))
    logLineCount = property(lambda self: self._count("output.log"))
    historyTail = property(lambda self: json.dumps(self.stream.get(HISTORY, [])[-1:]))
    eventsTail = property(lambda self: json.dumps(self.stream.get(EVENTS, [])[-1:]))

    @property
    def historyKeys(self) -> dict[str, Any]:
        rows = self.rows()
        keys = {key: {"typeCounts": [{"type": "number"}]} for row in rows for key in row}
        last = max((row["_step"] for row in rows), default=-1)
        return {"lastStep": last, "sets": [], "keys": keys}

    def wandbConfig(self, keys: list[str]) -> str:
        """Its "t" (telemetry) tells the client that the run has really started."""
        return json.dumps(json.loads(self.config).get("_wandb", {}).get("value", {}))

    def history(
        self, minStep: int = 0, maxStep: int = 1 << 62, samples: int | None = None
    ) -> list[str]:
        rows = [row for row in self.rows() if minStep <= row["_step"] < maxStep]
        return [json.dumps(row) for row in rows[:samples]]

    def sampledHistory(self, specs: list[str]) -> list[list[dict[str, Any]]]:
        wanted = [json.loads(spec)["keys"] for spec in specs]
        return [
            [{k: row[k] for k in keys} for row in self.rows() if set(keys) <= set(row)]
            for keys in wanted
        ]


def _write(held: list[str], offset: int, lines: list[str]) -> None:
    """Later rows keep their place after a gap."""
    held.extend([""] * (offset - len(held)))
    held[offset : offset + len(lines)] = lines
