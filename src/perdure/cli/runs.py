"""Runs of `perdure train` as child processes, each once: what has finished is taken as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from perdure.cli.processes import TRAIN, python
from perdure.io.atomic import write_json
from perdure.io.redaction import ADDRESSES
from perdure.io.run_files import RunFiles
from perdure.run.sealed import sealing

K = TypeVar("K")


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        words: flags and overrides of `perdure train`, without the run's folder.
        folder: the run's; a record of the same name with `.json` lies beside it.
        sealed: data sources that it may not load, by their `_target_`.
    """

    words: tuple[str, ...]
    folder: Path
    sealed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """What a run left: the content of results.json, or why it failed."""

    results: dict[str, Any]
    wall_seconds: float
    cpu_seconds: float
    failure: str = ""

    @property
    def accuracy(self) -> dict[str, float]:
        """Average accuracy at the end by name, in percent; of those that are defined."""
        average = self.results.get("average_accuracy") or {}
        return {name: 100 * value for name, value in average.items() if value is not None}


def run_once(job: Job) -> Ended:
    """One process in a run folder of its own; what had finished there before is taken as it is."""
    target = job.folder
    record = target.with_name(f"{target.name}.json")
    words = sorted(job.words, key=lambda word: not word.startswith("-"))  # Hydra takes flags first
    known = {"sealed": [], **json.loads(record.read_text())} if record.is_file() else {}
    asked = {"command": words, "sealed": list(job.sealed)}
    if any(known.get(key) != value for key, value in asked.items()):
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        log = target.with_suffix(".log")
        variables = {**ADDRESSES.environment(), **sealing(job.sealed)}
        used = python(*TRAIN, *words, f"hydra.run.dir={target}", log=log, variables=variables)
        if used.status != 0:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            reason = last[0] if last else f"exit status {used.status}"
            return Ended({}, used.wall_seconds, used.cpu_seconds, reason)
        known = {**asked, **asdict(used)}
        write_json(record, known)
    results: dict[str, Any] = json.loads(RunFiles(target).results.read_text())
    return Ended(results, known["wall_seconds"], known["cpu_seconds"])


def run_all(jobs: Iterable[tuple[K, Job]], at_a_time: int) -> Iterator[tuple[K, Ended]]:
    """Run jobs, so many at a time; yields what each left, by its key, as they end.

    What has not begun when the caller stops listening is not begun.
    """
    with ThreadPoolExecutor(max(1, at_a_time)) as pool:
        try:
            waiting = {pool.submit(run_once, job): key for key, job in jobs}
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)
