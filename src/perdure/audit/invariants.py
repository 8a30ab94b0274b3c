"""Checks of what a method promises: memory, frozen parts, pure loss, base method, exactness."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from perdure.audit.exactness import (
    Saved,
    differences,
    kept,
    require_exact_resumes,
    require_neutral_measuring,
    require_pure_loss,
)
from perdure.audit.outcome import FindingError, InapplicableError
from perdure.audit.run import WatchedRun
from perdure.audit.trial import Trial
from perdure.checkpoint.core.format import read
from perdure.config.compose import compose
from perdure.config.schema import LossScope
from perdure.config.typed import typed
from perdure.errors import UserError
from perdure.io.run_files import RunFiles
from perdure.models.addon import AddOn
from perdure.models.base import Method
from perdure.training.trainer import Trainer

_RESUMES = 4
_PARTED = 3
"""Steps of the second task after which batches in parts are compared."""
_ROUNDED = 1e-3


def memory(trial: Trial, run: WatchedRun) -> str:
    """The buffer must stay within its capacity, and hold what was offered and nothing else."""
    if run.trainer.method.keeps_all_data:
        raise InapplicableError("the method declares keeps_all_data: it is a bound")
    if run.in_memory:
        raise FindingError(run.in_memory)
    if not trial.capacity:
        return "no buffer, and no training example in what the method holds after a task"
    return (
        f"at most {run.memory.most} of {trial.capacity} places at {run.memory.looked} steps, "
        "training examples so far alone, and none outside of the buffer"
    )


def frozen(trial: Trial, run: WatchedRun) -> str:
    """What is declared frozen must keep its bits."""
    if run.in_frozen:
        raise FindingError(run.in_frozen)
    if not run.frozen:
        raise InapplicableError("the method declares nothing frozen")
    return f"{len(run.frozen)} tensors keep their bits"


def pure_loss(trial: Trial, run: WatchedRun) -> str:
    """`loss` must write no state but through its output."""
    require_pure_loss(trial)
    return "no step's loss changed a parameter or a buffer"


def base(trial: Trial, run: WatchedRun) -> str:
    """With zero strength the method must be its base method, and with its own strength not."""
    method = run.trainer.method
    # Over the classes seen in both, and without joining batches, whose sums round otherwise.
    alike = trial.with_training(loss_scope=LossScope.seen, one_forward=False)
    group, name, on_base = _base(alike, method)
    pairs = (text.split("=", 1) for text in method.zero_strength)
    zero = {key: yaml.safe_load(value) for key, value in pairs}
    without = alike.with_options(group, **zero)
    expected, found, own = (_weights(each.trainer()) for each in (on_base, without, alike))
    shown = ", ".join(f"{group}.{text}" for text in method.zero_strength)
    for path in differences({key: found[key] for key in expected}, expected, ""):
        raise FindingError(f"with {shown}, {path.removeprefix('.')} is not that of {name}")
    if not list(differences({key: own[key] for key in expected}, expected, "")):
        raise FindingError(f"with its own strength the weights are those of {name} too")
    return f"{shown} gives the weights of {name}, and its own strength others"


def _base(trial: Trial, method: Method) -> tuple[str, str, Trial]:
    """Where the strength of `method` stands, the name of its base method, and that one's trial."""
    config = trial.config
    if isinstance(method, AddOn):
        if not method.zero_strength:
            raise InapplicableError("the add-on declares no zero strength")
        return "addon", str(config.model["name"]), replace(trial, config=replace(config, addon={}))
    if method.base is None:
        raise InapplicableError("the method declares no base")
    node = typed(compose(*trial.search_path, f"model={method.base}")).model
    same = {key: config.model[key] for key in node if key in config.model}
    options = {**node, **same, "name": node["name"], "_target_": node["_target_"]}
    return "model", method.base, replace(trial, config=replace(config, model=options))


def resume(trial: Trial, run: WatchedRun) -> str:
    """A run resumed from any place must end as the one that was never stopped."""

    def chosen(n: int) -> Sequence[int]:
        places = random.Random(trial.config.seed).sample(range(n), min(_RESUMES, n))
        return sorted(places)

    places = require_exact_resumes(trial, 1, chosen)
    return f"the same bits from {'; '.join(places)}"


def measuring(trial: Trial, run: WatchedRun) -> str:
    """Measuring more often must change nothing."""
    if run.trainer.method.evaluable != "anytime":
        raise InapplicableError('the method declares evaluable = "task end"')
    if not trial.whole.shuffles:
        raise InapplicableError("a stream is passed once, and measured at its end")
    require_neutral_measuring(trial.with_epochs(2))
    return "the same bits when accuracy is measured after every epoch"


def batch_parts(trial: Trial, run: WatchedRun) -> str:
    """A batch in two parts must give what it gives whole, up to rounding."""
    method = run.trainer.method
    if not method.additive:
        raise InapplicableError("the method declares additive = False")
    if not method.rows_are_independent:
        raise InapplicableError("the network mixes the examples of a part, or draws random numbers")
    last = max(0, len(trial.groups) - 1)
    ends = []
    for shards in (1, 2):
        saved = Saved()
        trial.trainer(saved, shards=shards).fit()
        # The first steps of the second task: what is replayed counts, and rounding has not grown.
        number = saved.ended[0] + _PARTED if last else _PARTED
        ends.append(saved.state(min(number, len(saved.states) - 1))["model"])
    for name, whole in ends[0].items():
        if not (isinstance(whole, Tensor) and whole.is_floating_point() and whole.numel()):
            continue
        off = float((ends[1][name].double() - whole.double()).norm())
        if off > _ROUNDED * (1 + float(whole.double().norm())):
            raise FindingError(
                f"{name} differs by {off:.1g} when batches come in two parts; the loss must be a "
                "mean over the global batch (batch.mean), or declare additive = False"
            )
    return "the same weights up to rounding when batches come in two parts"


def world_size(words: Sequence[str], trial: Trial, run: WatchedRun) -> str:
    """Two processes must end with the bits of one, where the method's batches can be split."""
    method = run.trainer.method
    if not method.additive:
        raise InapplicableError("the method declares additive = False")
    if trial.device.type != "cpu":
        raise InapplicableError("the audit compares processes on the CPU; give device=cpu")
    with tempfile.TemporaryDirectory() as folder:
        ends = [_processes(n, words, trial, Path(folder, str(n))) for n in (1, 2)]
    for path in differences(ends[1], ends[0], ""):
        raise FindingError(f"{path.removeprefix('.')} is another on two processes than on one")
    return "the same bits on 1 and 2 processes (torchrun), each batch in 2 shards"


def _weights(trainer: Trainer) -> dict[str, Any]:
    trainer.fit()
    return dict(trainer.method.state_dict())


def _processes(n: int, words: Sequence[str], trial: Trial, folder: Path) -> dict[str, Any]:
    """The end of a short run on `n` processes."""
    short = [
        "training.shards=2", f"dataset.iterations={10}", "dataset.stop_after=2", "threads=1",
        f"dataset.batch_size={trial.config.dataset.batch_size}", "training.log_every=5",
        "checkpoint.save=true", "tracking=local", "tracking.console=off", f"hydra.run.dir={folder}",
    ]  # fmt: skip
    if trial.whole.n_tasks < 2:
        short.remove("dataset.stop_after=2")
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}")
    command = [sys.executable, *torchrun, "-m", "perdure", "train", *words, *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("perdure: ")]
        reason = lines[0] if lines else (done.stderr.strip().splitlines() or ["no output"])[-1]
        if lines:
            raise UserError(f"{reason.removeprefix('perdure: ')} (on {n} processes)")
        raise FindingError(f"a run on {n} processes failed: {reason}")
    last = max(RunFiles(folder).checkpoints.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    return kept(read(last))
