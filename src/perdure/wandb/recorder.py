"""Mirrors a run to W&B while it goes on, from a thread of its own; training never waits for it."""

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
from perdure.wandb.record import Record, is_sound
from perdure.wandb.rows import flat_config
from perdure.wandb.session import Limits, MirrorError, Session
from perdure.wandb.upload_queue import Outbox

logger = logging.getLogger("perdure")

_START_SECONDS = 20.0
_EVERY_SECONDS = 1.0
"""Rows are handed over at most this often."""
_PLACE = ("id", "entity", "project")
_STATE = (*_PLACE, "name", "group", "job_type", "tags", "notes")


class WandB(Recorder):
    """Hands a run's folder on to W&B; must hear every event after the recorder that writes it.

    Args:
        folder: the run's folder.
        record: which run of W&B this is, when it is a new one.
        online: whether to talk to W&B at all; else the folder alone keeps what a later
            `scripts/sync_wandb.py` sends.
        continues: whether this goes on with the run of the checkpoint's state; else it is a new
            one, whatever the state says.
        known: whether `record` says in which run of W&B the folder, or the artifact that it is
            rebuilt from, is kept by now; the state may be older than that.
        on_error: `offline` leaves the rest to a sync, `disable` gives up, `raise` ends the run.
        artifacts: whether checkpoints and results are uploaded too.
        finish_seconds: how long the end of the run waits for W&B.
        say: shows a sentence to the user; called in the run's own thread.
        on_stop: called when somebody presses Stop on the run's page.
    """

    name = "wandb"

    def __init__(
        self,
        folder: Path,
        record: Record,
        online: bool,
        continues: bool = False,
        known: bool = False,
        on_error: str = "offline",
        artifacts: bool = True,
        finish_seconds: float = 60.0,
        say: Callable[[str], None] = print,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.record = record
        self._online = online
        self._continues = continues
        self._known = known
        self._on_error = on_error
        self._artifacts = artifacts
        self._finish_seconds = finish_seconds
        self._say = say
        self._on_stop = on_stop
        self._outbox = Outbox(folder)
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._error: str | None = None
        self._results: Mapping[str, Any] = {}
        self._thread: threading.Thread | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which run of W&B this is, so that whoever goes on with it goes on there too."""
        return {key: getattr(self.record, key) for key in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the run of `state`, unless this run is one of its own."""
        if self._continues:
            for key in _STATE[len(_PLACE) :] if self._known else _STATE:
                # The entity may not have been known yet.
                if state.get(key) is not None and is_sound(key, state[key]):
                    setattr(self.record, key, state[key])

    def receive(self, event: Event) -> None:
        """As every recorder, and show what the thread had to say meanwhile.

        Raises:
            UserError: W&B failed and `on_error` is `raise`; not at the end of a run that ends
                for a reason of its own, which is the one to be heard of.
        """
        super().receive(event)
        self._pass_on(quietly=isinstance(event, RunEnd) and event.error is not None)

    def on_run_start(self, event: RunStart) -> None:
        """Start mirroring; what an earlier process left unsent goes first."""
        self.record.config = flat_config(event.config, event.results)
        self.record.save(self.folder)
        if not self._online:
            self._say(f"W&B: offline; {self._sync} sends it later")
            return
        self._thread = threading.Thread(target=self._work, name="W&B mirror", daemon=True)
        self._thread.start()

    def on_checkpoint_saved(self, event: CheckpointSaved) -> None:
        """Keep the checkpoint for the upload, out of retention's reach."""
        self._keep(event.path.name, lambda: self._outbox.add_checkpoint(event.path))

    def on_run_end(self, event: RunEnd) -> None:
        """Let the thread send the rest, for as long as may be; say what is not sent."""
        if self._thread is None:
            return
        self._keep("the results", self._outbox.add_results)
        self._results = event.results
        self._ended.set()
        self._thread.join(self._finish_seconds + _EVERY_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"not done after {self._finish_seconds:g} s")

    def _keep(self, what: str, add: Callable[[], None]) -> None:
        """Put something into the outbox; a disk that refuses it does not end the run."""
        if not (self._artifacts and self._working()):
            return
        try:
            add()
        except OSError as error:
            self._say(f"W&B: {what} cannot be kept for the upload ({error})")

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        half = max(1.0, self._finish_seconds / 2)
        session = Session(
            self.record, self.folder, Limits(min(_START_SECONDS, half), half), self._on_stop
        )
        mirror = Mirror(self.folder, self.record, session, self._outbox, self._tell)
        try:
            mirror.open()
            self._tell(f"mirrored to {self.record.url}")
            uploads = threading.Thread(target=self._upload, args=(mirror,), daemon=True)
            uploads.start()
            while not self._ended.wait(_EVERY_SECONDS):
                mirror.push_rows()
            self._end(mirror, half)
        except MirrorError as error:
            self._give_up(str(error))
        except Exception as error:  # a mistake of ours must not end a run either
            logger.exception("the W&B mirror failed")
            self._give_up(f"{type(error).__name__}: {error}")
            with suppress(MirrorError):
                session.close(exit_code=1)
        finally:
            self._closed.set()

    def _upload(self, mirror: Mirror) -> None:
        """The uploads' own thread: rows never wait for a large file."""
        try:
            while not self._closed.is_set():
                if not mirror.push_parcel() and self._ended.wait(_EVERY_SECONDS):
                    self._closed.wait(_EVERY_SECONDS / 5)
        except Exception as error:
            logger.exception("the uploads to W&B failed")
            self._tell(f"{type(error).__name__}: {error}")

    def _end(self, mirror: Mirror, seconds: float) -> None:
        mirror.push_end(self._results)
        mirror.retry_now()
        deadline = time.monotonic() + seconds
        while self._outbox.waiting() and time.monotonic() < deadline:
            time.sleep(_EVERY_SECONDS / 20)
        arrived = mirror.close(self._results)
        unsent = len(self._outbox.waiting())
        if unsent:
            self._give_up(f"{unsent} upload{' is' if unsent == 1 else 's are'} not sent")
        elif not arrived:
            self._give_up("the last rows have not been seen to arrive")
        else:
            self._tell(f"all is at {self.record.url}")

    def _give_up(self, reason: str) -> None:
        if self._on_error == "raise":
            self._error = reason
        elif self._on_error == "disable":
            self._tell(f"{reason}; nothing more is sent")
        else:
            self._tell(f"{reason}; {self._sync} sends the rest")

    # --- both threads -------------------------------------------------------------------------

    def _working(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _tell(self, sentence: str) -> None:
        self._told.put(sentence)

    def _pass_on(self, quietly: bool) -> None:
        while not self._told.empty():
            self._say(f"W&B: {self._told.get()}")
        if self._error is not None:
            error, self._error = self._error, None
            if not quietly:
                raise UserError(f"tracking.wandb.on_error=raise: {error}")
            self._say(f"W&B: {error}")

    @property
    def _sync(self) -> str:
        return f"python scripts/sync_wandb.py {self.folder}"
