"""Commands that resume: what to type for a run, and which run a cluster's requeued job has."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perdure.config.overrides import Arguments, override, program
from perdure.config.stored import GROUPS, NOT_STORED, OF_ONE_COMMAND
from perdure.config.trust import classes_to_allow, location_keys


def command_to_resume(typed: Arguments, config: Mapping[str, Any], folder: Path) -> str:
    """The command that resumes the run in `folder`, with all that no file may say.

    Args:
        typed: the command line that ran.
        config: the configuration that ran, plain.
        folder: the run's folder.
    """
    repeated = (*NOT_STORED, *location_keys({group: config[group] for group in GROUPS}))
    kept = [
        t.text
        for t in typed.overrides
        if t.key not in OF_ONE_COMMAND
        and any(t.key == key or t.key.startswith(f"{key}.") for key in repeated)
        and not t.is_sweep
    ]
    flags = [f"--config-dir={typed.config_dir}"] if typed.config_dir else []
    allowed = [*classes_to_allow(config, typed), *map(str, typed.value("checkpoint.allow") or [])]
    if allowed:
        kept.append(f"checkpoint.allow=[{','.join(dict.fromkeys(allowed))}]")
    return f"{program()} {shlex.join([*flags, override('checkpoint.load', str(folder)), *kept])}"


def job_record(root: Path, overrides: Sequence[str]) -> Path | None:
    """Where the folder of this command's run is written down for this cluster job, if it is one.

    A job keeps its number when it is requeued; the overrides tell apart several runs of one job.
    """
    slurm, torchrun = os.environ.get("SLURM_JOB_ID"), os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if slurm:
        name = f"slurm-{slurm}"
    elif torchrun != "none":
        name = f"torchrun-{torchrun}"
    else:
        return None
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:12]
    return root / ".jobs" / f"{name}-{digest}"
