"""The jobs of a sweep: their commands, their outcomes, and which need not run again."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from perdure.config.compare import decides_result
from perdure.config.overrides import Arguments, program, quoted
from perdure.errors import RESUMABLE, UserError
from perdure.io.run_files import RunFiles
from perdure.ranks import environment
from perdure.run.folder import RunFolder
from perdure.run.identity import is_used

_INTERRUPTED = {RESUMABLE, 130, -signal.SIGTERM, -signal.SIGINT}
_OF_THE_SWEEP = (
    "hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper",
    "hydra.sweep", "hydra.run.dir", "hydra.job.num",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: its index in the sweep, which names its folder.
        overrides: all that the sweep sets for it.
        name: the overrides in which it differs from the other jobs.
        folder: where its files go; absolute.
        command: the program and its arguments, which run it in a process of its own.
        cwd: the folder to which relative paths in the overrides refer.
    """

    number: int
    overrides: tuple[str, ...]
    name: str
    folder: Path
    command: tuple[str, ...]
    cwd: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        status: exit status; negative for a signal.
        reason: why it did not finish, in one sentence.
        value: average accuracy, if it finished.
        seconds: wall time.
        finished_before: whether it had finished before this command.
    """

    status: int
    reason: str = ""
    value: float | None = None
    seconds: float = 0.0
    finished_before: bool = False

    @property
    def result(self) -> str:
        """finished, interrupted (it can be resumed) or failed."""
        if self.status == 0:
            return "finished"
        return "interrupted" if self.status in _INTERRUPTED else "failed"


def name_of(overrides: Sequence[str], typed: Sequence[str]) -> str:
    """The overrides that differ from job to job: not those that the user typed with one value."""
    parsed = OverridesParser.create().parse_overrides(list(typed))
    fixed = {o.get_key_element() for o in parsed if not o.is_sweep_override()}
    varied = [o for o in overrides if o.partition("=")[0] not in fixed]
    return " ".join(map(_short, varied or overrides))


def _short(override: str) -> str:
    """Without the needless digits of a float that a search has drawn."""
    key, _, value = override.partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{6,}", value) else override


def typed_overrides(config: DictConfig, kind: str) -> list[str]:
    """The overrides of Hydra (`hydra`) or of the run (`task`), their ${…} not yet resolved."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    return list(overrides)


def command(config: DictConfig, number: int, overrides: Sequence[str], folder: Path) -> list[str]:
    """The command line of one job of the sweep `config` as a run by itself, in its folder.

    From `hydra.job.num` and `hydra.sweep.dir` the run knows which job of which sweep it is.
    """
    typed = typed_overrides(config, "hydra")
    hydra = [o for o in typed if not o.lstrip("+~").startswith(_OF_THE_SWEEP)]
    return [
        sys.executable,
        "-m",
        "perdure",
        "train",
        *Arguments(tuple(sys.argv[1:])).config_flags,
        *hydra,
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted(str(folder))}",
        f"hydra.sweep.dir={quoted(str(config.hydra.sweep.dir))}",
        f"hydra.job.num={number}",
        f"timestamp={quoted(str(config.timestamp))}",
        *overrides,
    ]


def command_to_continue(arguments: Sequence[str], sweep: Path) -> str:
    """The command line that runs what is missing of the sweep in the folder `sweep`."""
    replaced = ("checkpoint.resume=", "hydra.sweep.dir=")
    kept = [a for a in arguments if not a.startswith(replaced)]
    resume = ["checkpoint.resume=auto", f"hydra.sweep.dir={sweep}"]
    if environment.world_size() > 1:  # one process would give new jobs another number of shards
        return f"the same torchrun command with {shlex.join(resume)}"
    return f"{program()} {shlex.join([*kept, *resume])}"


def finished(folder: Path) -> float | None:
    """Average accuracy of the run that has finished in `folder`; None: work is left to do."""
    results = RunFolder(folder).complete_results()
    if results is None:
        return None
    average: dict[str, float] = results["average_accuracy"]
    return next(iter(average.values()))


def require_same_job(job: Job) -> None:
    """Refuse to run a job in the folder of one with other settings.

    Raises:
        UserError: names the job and both lists of overrides.
    """
    path = RunFiles(job.folder).typed_overrides
    if not path.is_file():
        return
    before = _compared(yaml.safe_load(path.read_text()) or [])
    now = _compared(job.overrides)
    if before != now:
        raise UserError(
            f"{job.folder}: holds job {job.number} with {_listed(before - now)}, which would now "
            f"have {_listed(now - before)}; type the sweep as it was, or give it a folder of its "
            "own (hydra.sweep.dir)"
        )


def require_unused(job: Job) -> None:
    """Refuse to start a job in the folder of a run.

    Raises:
        UserError: names the two ways on.
    """
    if is_used(job.folder):
        raise UserError(
            f"{job.folder}: a run is in that folder already; checkpoint.resume=auto runs what is "
            "missing of the sweep, another hydra.sweep.dir starts a sweep of its own"
        )


def _compared(overrides: Sequence[str]) -> set[str]:
    """Those that a job in the same folder must have too."""
    return {override for override in overrides if decides_result(_key(override))}


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _listed(overrides: set[str]) -> str:
    return " ".join(sorted(overrides)) or "nothing more"
