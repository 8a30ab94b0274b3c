"""The one place that calls the W&B client: init, log, artifact upload; timeouts and API keys.

Every call is bounded, every failure becomes a sentence. The client raises errors of a dozen
unrelated classes, blocks by default for minutes to days, and loses uploads without a message; see
the options and checks below.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.wandb.record import Record
from perdure.wandb.rows import AXES, ORDER

NO_KEY = "no API key is configured (`wandb login`, or WANDB_API_KEY)"
REQUEST_SECONDS = 10
"""How long the server may take to answer a request."""
_SEND_SECONDS = 5
"""How often rows go to the server (the client's default is 15, too slow for who watches)."""
_PER_PAGE = 200
"""Runs of a project that one request asks for."""
_RETRIES = 3
"""Attempts within one call of the client; the mirror itself retries later, with pauses."""


class MirrorError(Exception):
    """W&B could not do something; the message is a sentence for the user."""


@dataclass(frozen=True)
class SessionLimits:
    """Timeouts of the client, in seconds.

    Attributes:
        start: for opening a run.
        finish: for sending the rest when the run is closed.
    """

    start: float = 20.0
    finish: float = 30.0


@dataclass(frozen=True)
class SentRun:
    """A run as the server has it; whoever may write to the project wrote it.

    Attributes:
        id: of the run, unique in its project.
        state: what W&B says of its process: finished, running, crashed, failed, …
        config: flat, as `rows.flat_config` makes it.
        summary: as `rows.summary` makes it.
    """

    id: str
    state: str
    config: dict[str, Any]
    summary: dict[str, Any]


def project_runs(entity: str, project: str) -> list[SentRun]:
    """All runs of a project, the oldest first.

    Raises:
        MirrorError: there is no such project, or the server does not answer or does not allow it.
    """
    prepare_environment()
    if not key_configured():
        raise MirrorError(NO_KEY)
    with _as_mirror_error("the project could not be read"):
        import wandb

        api = wandb.Api(timeout=REQUEST_SECONDS)
        runs = api.runs(f"{entity}/{project}", per_page=_PER_PAGE, lazy=False)
        return [SentRun(r.id, str(r.state), dict(r.config), dict(r.summary)) for r in runs]


class Session:
    """An open run of W&B.

    Args:
        record: which run; its entity and url are filled in when it is opened.
        folder: the run's folder, where the client keeps its own files.
        limits: how long the client may take.
        on_stop: called, in a thread of the client, when somebody presses Stop on the run's page.
    """

    def __init__(
        self,
        record: Record,
        folder: Path,
        limits: SessionLimits | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.folder = folder
        self.limits = limits or SessionLimits()
        self._on_stop = on_stop
        self._run: Any = None

    def open(self) -> int:
        """Open the run, a new one or that of an earlier process; returns the last order it has.

        Raises:
            MirrorError: the server cannot be reached, or refuses the key.
        """
        prepare_environment()
        if not key_configured():
            raise MirrorError(NO_KEY)
        with _as_mirror_error("the run could not be opened"):
            import wandb

            try:
                self._run = wandb.init(**self._options(wandb))
            except BaseException:
                # Otherwise the client takes the next run of this id for one that is still open.
                wandb.teardown()
                raise
            self._name_axes()
            record = self.record
            record.id, record.url = self._run.id, self._run.url
            record.entity, record.project = self._run.entity, self._run.project
            for artifact in record.inputs:
                self._run.use_artifact(artifact)
            return self.last_order() if self._run.resumed else -1

    def log(self, row: Mapping[str, Any]) -> None:
        """Send one row; never waits for the server."""
        with _as_mirror_error("a row could not be handed over"):
            self._run.log(dict(row))

    def update_summary(self, values: Mapping[str, Any]) -> None:
        """Set entries of the run's summary."""
        with _as_mirror_error("the summary could not be handed over"):
            self._run.summary.update(dict(values))

    def show_matrix(
        self, matrix: Mapping[str, list[list[float]]], image: Path | None, order: int, step: int
    ) -> None:
        """Log the accuracy matrix as tables, one a scenario name, and as a picture."""
        with _as_mirror_error("the accuracy matrix could not be handed over"):
            import wandb

            row: dict[str, Any] = {"global_step": step, ORDER: order}
            for name, rows in matrix.items():
                width = max(map(len, rows))
                data = [[i, *cells, *[None] * (width - len(cells))] for i, cells in enumerate(rows)]
                columns: list[str | int] = [
                    "after_task",
                    *(f"task_{task}" for task in range(width)),
                ]
                row[f"accuracy_matrix/{name}"] = wandb.Table(columns=columns, data=data)
            if image is not None:
                row["accuracy_matrix/picture"] = wandb.Image(str(image))
            self._run.log(row)

    def upload(
        self,
        name: str,
        kind: str,
        files: Sequence[Path],
        aliases: Sequence[str],
        metadata: Mapping[str, Any],
    ) -> str:
        """Upload `files` as a version of the artifact `name`, and wait until the server has it.

        The same files again make no second version; the aliases move. The wait has no limit of
        its own (the client drops what it no longer waits for) but that of its retries; closing
        the session ends it.

        Args:
            name: the artifact's collection.
            kind: its type, `model` or `results`.
            files: absolute paths, which must stay as they are meanwhile.
            aliases: names of this version.
            metadata: plain values.

        Returns:
            `entity/project/name:vN`.

        Raises:
            MirrorError: it is not there; trying again is safe.
        """
        with _as_mirror_error(f"{name} could not be uploaded"):
            import wandb

            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for path in files:
                artifact.add_file(str(path), policy="immutable", skip_cache=True)
            logged = self._run.log_artifact(artifact, aliases=list(aliases)).wait()
            return f"{logged.entity}/{logged.project}/{logged.source_name}"

    def last_order(self) -> int:
        """The last order that the server has; -1 when it has no rows.

        Raises:
            MirrorError: the server does not answer.
        """
        with _as_mirror_error("its history could not be read"):
            import wandb

            record = self.record
            api = wandb.Api(timeout=REQUEST_SECONDS)
            run = api.run(f"{record.entity}/{record.project}/{record.id}")
            rows = run.scan_history(min_step=max(0, int(run.lastHistoryStep)))
            return max((int(row[ORDER]) for row in rows if row.get(ORDER) is not None), default=-1)

    def close(self, exit_code: int = 0, preempted: bool = False) -> None:
        """End the run on W&B; what has not arrived within the limit remains for a later sync.

        Raises:
            MirrorError: it could not be ended.
        """
        run, self._run = self._run, None
        if run is None:
            return
        with _as_mirror_error("the run could not be closed"):
            if preempted:
                run.mark_preempting()
            run.finish(exit_code=exit_code)

    def _options(self, wandb: Any) -> dict[str, Any]:
        record, limits = self.record, self.limits
        return {
            "id": record.id,
            "entity": record.entity,
            "project": record.project,
            "name": record.name,
            "group": record.group,
            "job_type": record.job_type,
            "tags": record.tags or None,
            "notes": record.notes,
            "config": record.config,
            "mode": "online",
            "dir": str(self.folder.absolute()),
            "resume": "allow",
            # The default silently returns the run of another job in this process.
            "reinit": "create_new",
            "settings": wandb.Settings(
                silent=True,
                console="off",
                init_timeout=limits.start,
                finish_timeout=limits.finish,
                stop_fn=self._on_stop,
                # What is not flushed when the process is killed is lost; the default is 15 s.
                x_transaction_log_flush_interval=1,
                x_file_stream_transmit_interval=_SEND_SECONDS,
                x_graphql_retry_max=_RETRIES,
                x_file_transfer_retry_max=_RETRIES,
            ),
        }

    def _name_axes(self) -> None:
        for axis in sorted({*AXES.values(), ORDER}):
            self._run.define_metric(axis, hidden=axis == ORDER)
        for metrics, axis in AXES.items():
            self._run.define_metric(metrics, step_metric=axis)


def key_configured() -> bool:
    """Whether the client would find an API key; uses no network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    if not os.path.isfile(os.environ.get("NETRC") or os.path.expanduser("~/.netrc")):
        return False
    prepare_environment()
    import wandb
    from wandb.sdk.lib import wbauth

    try:
        # Only the client knows the names of a host (with its port, its former name).
        return wbauth.read_netrc_auth(host=wandb.setup().settings.base_url) is not None
    except wandb.errors.AuthenticationError:  # an invalid key: reported when it is used
        return True


_MEANINGS = (
    (r"(error|HTTP) 401\b|\b401 Client|not logged in", "the server does not know this API key"),
    (r"(error|HTTP) 403\b|\b403 Client|permission denied", "the API key has no permission there"),
    (r"HandleAbandonedError", "the connection was closed before all of it had arrived"),
    (r"HTTP 5\d\d", "the server answers with errors"),
    (r"refused|deadline exceeded|in time\b", "the server does not answer"),
)


def explain(error: BaseException) -> str:
    """The meaning of a client's error, where that is known, else its first line."""
    text = f"{error} ({type(error).__name__})"
    for pattern, meaning in _MEANINGS:
        if re.search(pattern, text):
            return meaning
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


@contextmanager
def _as_mirror_error(what: str) -> Iterator[None]:
    """Turn any error of the client, whose classes have nothing in common, into a MirrorError."""
    try:
        yield
    except MirrorError:
        raise
    except Exception as error:
        raise MirrorError(f"{what}: {explain(error)}") from error


def prepare_environment() -> None:
    """Set what the client reads from its environment alone, when it is first used."""
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(REQUEST_SECONDS))
    # A server that is down otherwise costs five seconds more, twice, before `init` even begins.
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
