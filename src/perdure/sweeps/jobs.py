"""The jobs of a sweep: their commands, what became of them, and which need not run again."""

from __future__ import annotations

import json
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

from perdure.config.overrides import quoted
from perdure.errors import RESUMABLE, UserError
from perdure.ranks import environment

_INTERRUPTED = {RESUMABLE, 130, -signal.SIGTERM, -signal.SIGINT}
_OF_THE_SWEEP = (
    "hydra.mode", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper",
    "hydra.sweep", "hydra.run.dir", "hydra.job.num",
)  # fmt: skip
_PLACES = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_NOT_COMPARED = (
    "checkpoint", "tracking", "data.root", "output_root", "timestamp", "device", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: its place in the sweep, which names its folder.
        overrides: all that the sweep sets for it.
        name: those that tell it from the other jobs.
        folder: where its files go; absolute.
        command: the program and its arguments, which run it in a process of its own.
        cwd: the folder that relative paths in the overrides start from.
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
        before: whether it had finished before this command.
    """

    status: int
    reason: str = ""
    value: float | None = None
    seconds: float = 0.0
    before: bool = False

    @property
    def word(self) -> str:
        """finished, interrupted (it can go on) or failed."""
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
    """A number that a search has drawn, to as many digits as a reader can use."""
    key, _, value = override.partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{6,}", value) else override


def as_typed(config: DictConfig, kind: str) -> list[str]:
    """The overrides of Hydra (`hydra`) or of the run (`task`), their ${…} not yet resolved."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    return list(overrides)


def command(config: DictConfig, number: int, overrides: Sequence[str], folder: Path) -> list[str]:
    """What to type to run one job of the sweep `config` by itself, in its folder.

    `hydra.job.num` and `hydra.sweep.dir` tell the run which job of which sweep it is.
    """
    typed = as_typed(config, "hydra")
    hydra = [o for o in typed if not o.lstrip("+~").startswith(_OF_THE_SWEEP)]
    return [
        sys.executable,
        str(Path(sys.argv[0]).resolve()),
        *_config_places(sys.argv[1:]),
        *hydra,
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted(str(folder))}",
        f"hydra.sweep.dir={quoted(str(config.hydra.sweep.dir))}",
        f"hydra.job.num={number}",
        f"timestamp={quoted(str(config.timestamp))}",
        *overrides,
    ]


def _config_places(arguments: Sequence[str]) -> list[str]:
    """Hydra's options that say where configuration files are, as they were typed."""
    found: list[str] = []
    for at, argument in enumerate(arguments):
        if argument.startswith("--config-") and "=" in argument:
            found.append(argument)
        elif argument in _PLACES:
            found += arguments[at : at + 2]
    return found


def again(arguments: Sequence[str], sweep: Path) -> str:
    """The command line that goes on with the sweep in the folder `sweep`."""
    mine = ("checkpoint.resume=", "hydra.sweep.dir=")
    kept = [a for a in arguments if not a.startswith(mine)]
    resume = ["checkpoint.resume=auto", f"hydra.sweep.dir={sweep}"]
    if environment.world_size() > 1:  # one process would give new jobs another number of shards
        return f"the same torchrun command with {shlex.join(resume)}"
    return f"python {shlex.join([sys.argv[0], *kept, *resume])}"


def finished(folder: Path) -> float | None:
    """Average accuracy of the run that has ended well in `folder`; None if none has."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    results: dict[str, Any] = json.loads(path.read_text())
    if results.get("status") != "finished":
        return None
    average: dict[str, float] = results["average_accuracy"]
    return next(iter(average.values()))


def refuse_changed(job: Job) -> None:
    """Refuse to run a job in the folder of one that was set otherwise.

    Raises:
        UserError: names the job and both lists of overrides.
    """
    path = job.folder / ".hydra" / "overrides.yaml"
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


def _compared(overrides: Sequence[str]) -> set[str]:
    """Without the settings that a run may change when it goes on."""
    return {
        o
        for o in overrides
        if not any(_key(o) == free or _key(o).startswith(f"{free}.") for free in _NOT_COMPARED)
    }


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _listed(overrides: set[str]) -> str:
    return " ".join(sorted(overrides)) or "nothing more"
