"""Brings a W&B run to what its folder holds: new rows, waiting parcels, the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from perdure.checkpoint.core import archive, sidecars
from perdure.errors import UserError
from perdure.io.atomic import write_atomically
from perdure.io.files import digest, is_own, open_plain
from perdure.wandb import rows
from perdure.wandb.record import Record
from perdure.wandb.session import MirrorError, Session
from perdure.wandb.upload_queue import RECORDERS, Outbox, Parcel

_PAUSES = (2.0, 5.0, 15.0, 60.0)
"""Seconds before a failed upload is tried again; the last one from then on."""


class Mirror:
    """One process's work on a run of W&B; nothing here is done twice, whoever was killed before.

    Args:
        folder: the run's folder.
        record: which run of W&B.
        session: talks to the client.
        outbox: what is to be uploaded.
        say: takes a sentence for the user.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        session: Session,
        outbox: Outbox,
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.record = record
        self.session = session
        self.outbox = outbox
        self._say = say
        self._read = 0
        self._last = -1
        self._best: dict[str, float] = {}
        self._failures = 0
        self._try_at = 0.0
        self._closing = False

    def open(self) -> None:
        """Open the run and find out what the server has.

        Raises:
            MirrorError: it cannot be opened.
        """
        self._last = self.session.open()
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
            self._note_best(row)
            if row[rows.ORDER] > self._last:
                self.session.log(row)
                self._last = row[rows.ORDER]

    def push_parcel(self) -> bool:
        """Upload the oldest parcel, if its time has come; returns whether it is sent.

        A failure is told once, and the parcel tried again after a pause. May be called in another
        thread than the rest.
        """
        waiting = self.outbox.waiting()
        if not waiting or time.monotonic() < self._try_at or not self.outbox.begin(waiting[0]):
            return False
        try:
            self._send(waiting[0])
        except MirrorError as error:
            self.outbox.failed()
            if not self._failures and not self._closing:
                self._say(f"{error}; it is tried again")
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            self._failures += 1
            self._try_at = time.monotonic() + pause
            return False
        except UserError as error:
            self._say(f"{error}; it is not sent")
        self.outbox.sent(waiting[0])
        self._failures, self._try_at = 0, 0.0
        return True

    def retry_now(self) -> None:
        """Whatever failed before is tried again at once."""
        self._try_at = 0.0

    def push_end(self, results: Mapping[str, Any]) -> None:
        """Send what stands at a run's end: the last rows, the summary, the accuracy matrix.

        A run that did not finish has no matrix yet: at this very step rows may follow, whose
        order would be lower.
        """
        self.push_rows()
        self.session.summarise(rows.summary(results, self._best))
        if results["status"] != "finished":
            return
        step = int(results.get("global_step") or 0)
        order = rows.order("end", step)
        matrix = {name: m for name, m in (results.get("accuracy_matrix") or {}).items() if m}
        if matrix and order > self._last:
            picture = self.folder / "accuracy_matrix.png"
            own = picture if is_own(picture, self.folder) else None
            self.session.show_matrix(matrix, own, order, step)
            self._last = order

    def close(self, results: Mapping[str, Any]) -> bool:
        """End the run on W&B; returns whether every row is seen to have arrived.

        Raises:
            MirrorError: it could not be ended, or cannot be asked.
        """
        self._closing = True
        status = results["status"]
        self.session.close(int(status != "finished"), preempted=status == "interrupted")
        return self.session.last_order() >= self._last

    # --- parcels ------------------------------------------------------------------------------

    def _send(self, parcel: Parcel) -> None:
        run_id = self.record.id
        if parcel.checkpoint is not None:
            _write_recorders(parcel.folder / parcel.checkpoint, parcel.about["sha256"])
        aliases = ["latest"] if parcel.checkpoint else parcel.aliases
        hashes = {path.name: digest(path) for path in parcel.results}
        known = {"run": run_id, "sha256": hashes}
        results = self.session.upload(
            f"results-{run_id}", "results", parcel.results, aliases, known
        )
        if parcel.checkpoint is None:
            self.record.results_sha256 = hashes.get("results.json")
            self.record.save(self.folder)
            return
        about = {key: parcel.about.get(key) for key in _METADATA}
        metadata = {"run": run_id, **about, "file": parcel.checkpoint}
        metadata |= {"results": results, "results_sha256": hashes}
        file = parcel.folder / parcel.checkpoint
        artifact = self.session.upload(
            f"ckpt-{run_id}",
            "model",
            [file, sidecars.path_of(file)],
            parcel.aliases,
            metadata,
        )
        sent = {"sha256": parcel.about["sha256"], "artifact": artifact, "aliases": parcel.aliases}
        self.record.sent.append(sent)
        self.record.save(self.folder)

    # --- rows ---------------------------------------------------------------------------------

    def _new_lines(self) -> list[dict[str, Any]]:
        """Whole lines that were written since the last call."""
        try:
            with open_plain(self.folder / "metrics.jsonl", follow=False) as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise MirrorError(f"metrics.jsonl cannot be read ({error.strerror})") from error
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _note_best(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key.startswith("after_task/") and key.endswith("/avg_acc"):
                self._best[key] = max(value, self._best.get(key, value))


_METADATA = ("sha256", "bytes", "format", "position", "stage", "epoch", "kind", "monitor", "value")


_ANY_SIZE = 2**63


def _write_recorders(checkpoint: Path, sha256: str) -> None:
    """Put the recorders' state beside the checkpoint that holds it, for who reads no tensors.

    Raises:
        UserError: the file is not what was committed, or no checkpoint of a run.
    """
    # The tensors are never looked at, so they may be as large as the run's own limit allows.
    state = archive.load(checkpoint, _ANY_SIZE, sha256, mapped=True)
    try:
        text = json.dumps(state["results"]["recorders"], indent=1)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint}: is no checkpoint of a run ({error!r})") from error
    write_atomically(checkpoint.parent / RECORDERS, text.encode(), durable=False)
