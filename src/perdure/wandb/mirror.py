"""Synchronizes a W&B run with its folder: metrics, pending uploads with retries, the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import archive, sidecars
from perdure.errors import UserError
from perdure.io.atomic import write_atomically
from perdure.io.files import digest, is_own, open_plain
from perdure.io.run_files import RESULTS, RunFiles
from perdure.wandb import rows
from perdure.wandb.record import Record
from perdure.wandb.session import MirrorError, Session
from perdure.wandb.upload_queue import RECORDERS, PendingUpload, UploadQueue

_PAUSES = (2.0, 5.0, 15.0, 60.0)
"""Seconds before a failed upload is retried (backoff); the last one from then on."""


class Mirror:
    """One process's work on a run of W&B; nothing is sent twice, even after earlier kills.

    Args:
        folder: the run's folder.
        record: which run of W&B.
        session: calls the client.
        queue: the pending uploads.
        notify: shows a sentence to the user.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        session: Session,
        queue: UploadQueue,
        notify: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.record = record
        self.session = session
        self.queue = queue
        self._notify = notify
        self._read_bytes = 0
        self._last_order = -1
        self._best: dict[str, float] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._closing = False

    def open(self) -> None:
        """Open the run and find out how far the server's history reaches.

        Raises:
            MirrorError: it cannot be opened.
        """
        self._last_order = self.session.open()
        self.record.save(self.folder)

    def push_rows(self) -> None:
        """Send the rows of metrics.jsonl that the server lacks."""
        for line in self._new_lines():
            try:
                row = rows.to_row(line)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise MirrorError("metrics.jsonl is damaged (a line is no measurement)") from error
            if row is None:
                continue
            self._update_best(row)
            if row[rows.ORDER] > self._last_order:
                self.session.log(row)
                self._last_order = row[rows.ORDER]

    def push_upload(self) -> bool:
        """Send the oldest pending upload, unless it waits for a retry; returns whether it is sent.

        A failure is reported once, and the upload retried after a pause. May be called in another
        thread than the rest.
        """
        pending = self.queue.pending()
        if not pending or time.monotonic() < self._retry_at or not self.queue.begin(pending[0]):
            return False
        try:
            self._send(pending[0])
        except MirrorError as error:
            self.queue.failed()
            if not self._failures and not self._closing:
                self._notify(f"{error}; it is tried again")
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            self._failures += 1
            self._retry_at = time.monotonic() + pause
            return False
        except UserError as error:
            self._notify(f"{error}; it is not sent")
        self.queue.sent(pending[0])
        self._failures, self._retry_at = 0, 0.0
        return True

    def retry_now(self) -> None:
        """Retry what failed before without waiting for the pause to end."""
        self._retry_at = 0.0

    def push_end(self, results: Mapping[str, Any]) -> None:
        """Send what is final at a run's end: the last rows, the summary, the accuracy matrix.

        A run that did not finish has no matrix yet: at this very step rows may follow, whose
        order would be lower.
        """
        self.push_rows()
        self.session.update_summary(rows.summary(results, self._best))
        if results["status"] != "finished":
            return
        step = int(results.get("global_step") or 0)
        order = rows.order("end", step)
        matrix = {name: m for name, m in (results.get("accuracy_matrix") or {}).items() if m}
        if matrix and order > self._last_order:
            picture = RunFiles(self.folder).accuracy_picture
            own_picture = picture if is_own(picture, self.folder) else None
            self.session.show_matrix(matrix, own_picture, order, step)
            self._last_order = order

    def close(self, results: Mapping[str, Any]) -> bool:
        """End the run on W&B; returns whether the server's history holds every row.

        Raises:
            MirrorError: it could not be ended, or its history cannot be read.
        """
        self._closing = True
        status = results["status"]
        self.session.close(int(status != "finished"), preempted=status == "interrupted")
        return self.session.last_order() >= self._last_order

    # --- uploads ------------------------------------------------------------------------------

    def _send(self, upload: PendingUpload) -> None:
        run_id = self.record.id
        if upload.checkpoint is not None:
            _write_recorders(upload.folder / upload.checkpoint, upload.metadata["sha256"])
        aliases = ["latest"] if upload.checkpoint else upload.aliases
        hashes = {path.name: digest(path) for path in upload.results}
        results = self.session.upload(
            f"results-{run_id}", "results", upload.results, aliases,
            {"run": run_id, "sha256": hashes},
        )  # fmt: skip
        if upload.checkpoint is None:
            self.record.results_sha256 = hashes.get(RESULTS)
            self.record.save(self.folder)
            return
        metadata = {key: upload.metadata.get(key) for key in _METADATA}
        metadata |= {"run": run_id, "file": upload.checkpoint}
        metadata |= {"results": results, "results_sha256": hashes}
        file = upload.folder / upload.checkpoint
        artifact = self.session.upload(
            f"ckpt-{run_id}",
            "model",
            [file, sidecars.path_of(file)],
            upload.aliases,
            metadata,
        )
        self.record.sent.append(
            {
                "sha256": upload.metadata["sha256"],
                "artifact": artifact,
                "aliases": upload.aliases,
            }
        )
        self.record.save(self.folder)

    # --- rows ---------------------------------------------------------------------------------

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        """Complete lines that were written since those that were taken last."""
        try:
            with open_plain(RunFiles(self.folder).metrics, follow=False) as file:
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._read_bytes += len(line)
                    yield json.loads(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise MirrorError(f"metrics.jsonl cannot be read ({error.strerror})") from error

    def _update_best(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key.startswith("after_task/") and key.endswith("/avg_acc"):
                self._best[key] = max(value, self._best.get(key, value))


_METADATA = ("sha256", "bytes", "format", "position", "stage", "epoch", "kind", "monitor", "value")
"""Entries of a checkpoint's sidecar that become metadata of its artifact."""

_ANY_SIZE = 2**63


def _write_recorders(checkpoint: Path, sha256: str) -> None:
    """Write the recorders' state, which the checkpoint holds, beside it as JSON.

    Raises:
        UserError: the file is not the one that was committed, or no checkpoint of a run.
    """
    # The tensors are not read, so they may be as large as the run's own limit allows.
    state = archive.load(checkpoint, _ANY_SIZE, sha256, mapped=True)
    try:
        text = json.dumps(state["results"]["recorders"], indent=1)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint}: is no checkpoint of a run ({error!r})") from error
    write_atomically(checkpoint.parent / RECORDERS, text.encode(), durable=False)
