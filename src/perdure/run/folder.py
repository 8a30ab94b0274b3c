"""A run folder and its state: status.json, results.json, newest checkpoint, finished or not."""

from __future__ import annotations

import shutil
from typing import Any

from perdure.checkpoint.core.lock import RunLock
from perdure.errors import UserError
from perdure.io.atomic import remove_temporaries, write_json
from perdure.io.files import read_json
from perdure.io.run_files import RESULTS_LIMIT, RunFiles
from perdure.io.transfer import DEFAULT_LIMITS, Limits
from perdure.run.resume import RestorePoint, latest_intact


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
            raise UserError(f"{self.results}: damaged ({error})") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.results}: damaged (no JSON object)")
        return found

    @property
    def run_status(self) -> str | None:
        """`running`, `finished`, `failed` or `interrupted`, as results.json says; None before."""
        results = self.read_results()
        return None if results is None else str(results.get("status"))

    def finished_results(self) -> dict[str, Any] | None:
        """The results of a run that ended well here; None otherwise."""
        results = self.read_results()
        return results if results is not None and results.get("status") == "finished" else None

    def latest_intact(self, limits: Limits = DEFAULT_LIMITS) -> RestorePoint | None:
        """The newest full checkpoint that is intact; None if none was written.

        Raises:
            UserError: there are some, but none is intact.
        """
        return latest_intact(self.path, limits)

    def write_status(self, status: str, exit_status: int) -> None:
        """Write status.json: what a wrapper should know, since torchrun hides the exit status."""
        if self.path.is_dir():
            write_json(self.status, {"status": status, "exit_status": exit_status})

    def new_lock(self) -> RunLock:
        """The lock of who writes here, not yet acquired."""
        return RunLock(self.path)

    def remove_temporaries(self) -> None:
        """Remove what a killed process has left half written; only who holds the lock may."""
        remove_temporaries(self.path)
        remove_temporaries(self.checkpoints)

    def discard_if_fresh(self) -> None:
        """Remove the folder where nothing has happened in it yet."""
        fresh = {p.name for p in (self.hydra, self.log, self.lock, self.console)}
        if self.path.is_dir() and {p.name for p in self.path.iterdir()} <= fresh:
            shutil.rmtree(self.path)
