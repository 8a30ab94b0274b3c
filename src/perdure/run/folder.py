"""A run folder and its state: status.json, results.json, newest checkpoint, finished or not."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from perdure.checkpoint.core.ledger import newest, uncommitted
from perdure.checkpoint.core.lock import RunLock
from perdure.errors import UserError, printable
from perdure.io.atomic import remove_temporaries, write_json
from perdure.io.files import digest, matches, read_json
from perdure.io.run_files import METRICS, RESULTS, RESULTS_LIMIT, RunFiles
from perdure.io.transfer import DEFAULT_LIMITS, Limits
from perdure.run.resume import RestorePoint, latest_intact

log = logging.getLogger("perdure")

_PROVEN = (RESULTS, METRICS)
"""Files whose checksum the status of a finished run holds."""


class RunFolder(RunFiles):
    """The folder of one run."""

    def read_results(self) -> dict[str, Any] | None:
        """What results.json holds; None where there is none.

        Raises:
            UserError: it is no JSON object.
        """
        if not self.results.is_file():
            return None
        try:
            found = read_json(self.results, RESULTS_LIMIT)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.results}: damaged ({printable(str(error))})") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.results}: damaged (no JSON object)")
        return found

    @property
    def run_status(self) -> str | None:
        """`running`, `finished`, `failed` or `interrupted`, as results.json says; None if not."""
        try:
            results = self.read_results()
        except UserError:
            return None
        return None if results is None else str(results.get("status"))

    def finished_results(self) -> dict[str, Any] | None:
        """The results of a run that ended well here; None otherwise.

        Raises:
            UserError: results.json is damaged.
        """
        results = self.read_results()
        if results is None or results.get("status") != "finished":
            return None
        average = results.get("average_accuracy")
        if not isinstance(average, dict) or not average:
            raise UserError(f"{self.results}: damaged (no average_accuracy)")
        return results

    @property
    def is_complete(self) -> bool:
        """Whether all the work of a good end is done: report, pictures, rows, retention."""
        return self._read_status().get("status") == "finished"

    def complete_results(self) -> dict[str, Any] | None:
        """`finished_results` where nothing is left to do for them, and they are intact."""
        try:
            intact = self.is_complete and not self._changed()
            return self.finished_results() if intact else None
        except UserError:
            return None

    def _read_status(self) -> dict[str, Any]:
        """What status.json holds; nothing where it cannot be read."""
        try:
            found = read_json(self.status)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _changed(self) -> list[str]:
        """Files that are no longer as they were when the run ended well."""
        sums = self._read_status().get("sha256")
        known = sums if isinstance(sums, dict) else {}
        paths = (self.path / name for name in _PROVEN if name in known)
        return [path.name for path in paths if not matches(path, sha256=known[path.name])]

    def results_for(self, config: DictConfig) -> dict[str, Any] | None:
        """The results with which a command that resumes ends at once; None: it has work to do.

        Work is also what a kill has left of a good end, and tasks beyond those trained.

        Raises:
            UserError: as `finished_for`.
        """
        results = self.finished_for(config)
        if results is None or self.is_complete:
            return results
        if newest(self.checkpoints) is not None:  # it goes last, so the rest may be missing
            return None
        self._remove_rolling()
        return results

    def finished_for(self, config: DictConfig) -> dict[str, Any] | None:
        """The results of a run that has ended well here and trained all that `config` asks for.

        Args:
            config: the command's configuration, which is that of the run here.

        Raises:
            UserError: the results are damaged, or of other tasks, and no checkpoint is left.
        """
        lost = "no checkpoint is left to rebuild it from"
        has_checkpoint = newest(self.checkpoints) is not None
        try:
            results = self.finished_results()
            if results is None:
                return None
            if self.results.name in (changed := self._changed()):
                raise UserError(f"{self.results}: damaged (changed since the run finished)")
        except UserError as error:
            if not has_checkpoint:
                raise UserError(f"{error}; {lost}; choose another hydra.run.dir") from None
            log.warning("%s; it is rebuilt from the newest checkpoint", error)
            return None
        if changed:
            what = "it is rebuilt as far as it is intact" if has_checkpoint else lost
            log.warning("%s: damaged (changed since the run finished); %s", self.metrics, what)
        if self._trains_more(config, results) or (changed and has_checkpoint):
            return None
        return results

    def _trains_more(self, config: DictConfig, results: Mapping[str, Any]) -> bool:
        """Whether `config` asks for tasks after those that the run has trained.

        Raises:
            UserError: it asks for fewer, or the state after them is not kept.
        """
        done, n_tasks = results.get("tasks_done"), results.get("n_tasks")
        if results.get("training") == "joint":
            return False
        if not isinstance(done, int) or not isinstance(n_tasks, int):
            return False
        typed = config.dataset.stop_after
        wanted: int = typed or n_tasks
        refusal = (
            f"{self.path}: the run is finished after {done} of {n_tasks} tasks, so that "
            f"dataset.stop_after={'null' if typed is None else typed} is another run"
        )
        if wanted < done:
            raise UserError(f"{refusal}; leave it as it was, or choose another hydra.run.dir")
        if wanted > done and newest(self.checkpoints) is None:
            raise UserError(
                f"{refusal}: checkpoint.save=false has kept no state of it; choose another "
                "hydra.run.dir"
            )
        return wanted > done

    def _remove_rolling(self) -> None:
        """What a kill between the two unlinks of the last rolling file has left."""
        for path in uncommitted(self.checkpoints):
            if path.name.startswith("step-"):
                path.unlink(missing_ok=True)
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            self.checkpoints.rmdir()

    def latest_intact(self, limits: Limits = DEFAULT_LIMITS) -> RestorePoint | None:
        """The newest full checkpoint that is intact; None if none was written.

        Raises:
            UserError: there are some, but none is intact.
        """
        return latest_intact(self.path, limits)

    def write_status(self, status: str, exit_status: int) -> None:
        """Write status.json: what a wrapper should know, since torchrun hides the exit status."""
        if not self.path.is_dir():
            return
        content: dict[str, Any] = {"status": status, "exit_status": exit_status}
        if status == "finished":
            kept = (path for name in _PROVEN if (path := self.path / name).is_file())
            content["sha256"] = {path.name: digest(path) for path in kept}
        write_json(self.status, content)

    def begin(self) -> None:
        """What the last process left of its work goes; only who holds the lock may."""
        self.status.unlink(missing_ok=True)
        remove_temporaries(self.path)
        remove_temporaries(self.checkpoints)
        remove_temporaries(self.figures)

    def new_lock(self) -> RunLock:
        """The lock of who writes here, not yet acquired."""
        return RunLock(self.path)

    def discard_if_fresh(self) -> None:
        """Remove the folder where nothing has happened in it yet."""
        fresh = {p.name for p in (self.hydra, self.log, self.lock, self.console)}
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} <= fresh:
            shutil.rmtree(self.path)
