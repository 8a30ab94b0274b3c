"""W&B logger: mirrors a run while it trains, in a background thread; training never waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.errors import UserError
from perdure.tracking.events import CheckpointSaved, Event, Recorder, RunEnd, RunStart
from perdure.wandb.mirror import Mirror
from perdure.wandb.record import Record, is_valid
from perdure.wandb.rows import flat_config
from perdure.wandb.session import MirrorError, Session, SessionLimits
from perdure.wandb.upload_queue import UploadQueue

logger = logging.getLogger("perdure")

_START_SECONDS = 20.0
_EVERY_SECONDS = 1.0
"""How often new rows and uploads are looked for."""
_ADDRESS = ("id", "entity", "project")
_STATE = (*_ADDRESS, "name", "group", "job_type", "tags", "notes")


class WandB(Recorder):
    """Mirrors a run's folder to W&B; must come after the recorder that writes the folder.

    Args:
        folder: the run's folder.
        record: which run of W&B this is, when it is a new one.
        online: whether to call W&B at all; else the folder keeps what a later
            `perdure sync-wandb` sends.
        continues: whether this continues the run in the checkpoint's state; else it is a new one,
            and the state is ignored.
        recorded: whether `record` names the run of W&B that mirrors the folder, or the artifact
            that it is rebuilt from, by now; the state may be older than that.
        on_error: `offline` leaves the rest to a sync, `disable` gives up, `raise` ends the run.
        artifacts: whether checkpoints and results are uploaded too.
        finish_seconds: how long the end of the run waits for W&B.
        notify: shows a sentence to the user; called in the run's own thread.
        on_stop: called when somebody presses Stop on the run's page.
    """

    name = "wandb"

    def __init__(
        self,
        folder: Path,
        record: Record,
        online: bool,
        continues: bool = False,
        recorded: bool = False,
        on_error: str = "offline",
        artifacts: bool = True,
        finish_seconds: float = 60.0,
        notify: Callable[[str], None] = print,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.record = record
        self._online = online
        self._continues = continues
        self._recorded = recorded
        self._on_error = on_error
        self._artifacts = artifacts
        self._finish_seconds = finish_seconds
        self._notify = notify
        self._on_stop = on_stop
        self._queue = UploadQueue(folder)
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: str | None = None
        self._results: Mapping[str, Any] = {}
        self._thread: threading.Thread | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which run of W&B this is, so that a process that resumes it continues there too."""
        return {key: getattr(self.record, key) for key in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the W&B run of `state`, unless this run is a new one."""
        if self._continues:
            for key in _STATE[len(_ADDRESS) :] if self._recorded else _STATE:
                # The entity may not have been known yet.
                if state.get(key) is not None and is_valid(key, state[key]):
                    setattr(self.record, key, state[key])

    def receive(self, event: Event) -> None:
        """Handle `event`, then show the messages of the threads.

        Raises:
            UserError: W&B failed and `on_error` is `raise`; not at the end of a run that ends
                for a reason of its own, which is the one to report.
        """
        super().receive(event)
        self._show_messages(quietly=isinstance(event, RunEnd) and event.error is not None)

    def on_run_start(self, event: RunStart) -> None:
        """Start the thread; what an earlier process left unsent is sent first."""
        self.record.config = flat_config(event.config, event.results)
        self.record.save(self.folder)
        if not self._online:
            self._notify(f"W&B: offline; {self._sync} sends it later")
            return
        self._thread = threading.Thread(target=self._work, name="W&B mirror", daemon=True)
        self._thread.start()

    def on_checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Queue the checkpoint, so that retention does not remove it before it is sent."""
        self._enqueue(event.path.name, lambda: self._queue.add_checkpoint(event.path))

    def on_run_end(self, event: RunEnd) -> None:
        """Wait up to `finish_seconds` while the thread sends the rest; report what is not sent."""
        if self._thread is None:
            return
        self._enqueue("the results", self._queue.add_results)
        self._results = event.results
        self._ended.set()
        self._thread.join(self._finish_seconds + _EVERY_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"not done after {self._finish_seconds:g} s")

    def _enqueue(self, what: str, add: Callable[[], None]) -> None:
        """Queue an upload; an error of the disk does not end the run."""
        if not (self._artifacts and self._working()):
            return
        try:
            add()
        except OSError as error:
            self._notify(f"W&B: {what} cannot be queued for upload ({error})")

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        half = max(1.0, self._finish_seconds / 2)
        session = Session(
            self.record, self.folder, SessionLimits(min(_START_SECONDS, half), half), self._on_stop
        )
        mirror = Mirror(self.folder, self.record, session, self._queue, self._report)
        try:
            mirror.open()
            self._report(f"mirrored to {self.record.url}")
            uploads = threading.Thread(target=self._upload, args=(mirror,), daemon=True)
            uploads.start()
            while not self._ended.wait(_EVERY_SECONDS):
                mirror.push_rows()
            self._end(mirror, half)
        except MirrorError as error:
            self._give_up(str(error))
        except Exception as error:  # a bug of the mirror must not end a run either
            logger.exception("the W&B mirror failed")
            self._give_up(f"{type(error).__name__}: {error}")
            with suppress(MirrorError):
                session.close(exit_code=1)
        finally:
            self._closed.set()

    def _upload(self, mirror: Mirror) -> None:
        """The thread of the uploads: rows never wait for a large file."""
        try:
            while not self._closed.is_set():
                if not mirror.push_upload() and self._ended.wait(_EVERY_SECONDS):
                    self._closed.wait(_EVERY_SECONDS / 5)
        except Exception as error:
            logger.exception("the uploads to W&B failed")
            self._report(f"{type(error).__name__}: {error}")

    def _end(self, mirror: Mirror, seconds: float) -> None:
        mirror.push_end(self._results)
        mirror.retry_now()
        deadline = time.monotonic() + seconds
        while self._queue.pending() and time.monotonic() < deadline:
            time.sleep(_EVERY_SECONDS / 20)
        arrived = mirror.close(self._results)
        unsent = len(self._queue.pending())
        if unsent:
            self._give_up(f"{unsent} upload{' is' if unsent == 1 else 's are'} not sent")
        elif not arrived:
            self._give_up("the last rows have not been seen to arrive")
        else:
            self._report(f"all is at {self.record.url}")

    def _give_up(self, reason: str) -> None:
        if self._on_error == "raise":
            self._error = reason
        elif self._on_error == "disable":
            self._report(f"{reason}; nothing more is sent")
        else:
            self._report(f"{reason}; {self._sync} sends the rest")

    # --- both threads -------------------------------------------------------------------------

    def _working(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _report(self, sentence: str) -> None:
        self._messages.put(sentence)

    def _show_messages(self, quietly: bool) -> None:
        while not self._messages.empty():
            self._notify(f"W&B: {self._messages.get()}")
        if self._error is not None:
            error, self._error = self._error, None
            if not quietly:
                raise UserError(f"tracking.wandb.on_error=raise: {error}")
            self._notify(f"W&B: {error}")

    @property
    def _sync(self) -> str:
        return f"perdure sync-wandb {self.folder}"
