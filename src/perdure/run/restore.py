"""Restoring a freshly built run from a checkpoint: exactly, or with weights alone."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import perdure
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.config.schema import CheckpointConfig
from perdure.errors import UserError
from perdure.io import atomic
from perdure.io.files import is_own
from perdure.io.run_files import CHECKPOINTS, RunFiles
from perdure.run.fork import Fork
from perdure.run.fork_state import load_fork
from perdure.run.resume import RestorePoint, Weights
from perdure.tracking.raw_files import copy_records
from perdure.training import draws
from perdure.training.trainer import Trainer
from perdure.wandb import record as records

if TYPE_CHECKING:
    from perdure.backbones.base import Backbone
    from perdure.checkpoint.interop.foreign import Opened


def versions(device: torch.device, code: str) -> dict[str, str]:
    """What a resumed run must share to end with the same bits."""
    return {
        "code": code,
        "perdure": perdure.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "threads": str(torch.get_num_threads()),
    }


def restore(
    trainer: Trainer, source: RestorePoint, folder: Path | None, fork: Fork | None = None
) -> list[str]:
    """Bring `trainer` to where `source` stood; returns what the user should know.

    Args:
        trainer: freshly built.
        source: the checkpoint.
        folder: the run's, on the rank that writes.
        fork: what is changed, where the run is a fork.

    Raises:
        UserError: the state does not fit the run as it is configured now.
    """
    told = []
    if fork is None:
        _require_same_draws(trainer, source)
    try:
        if fork is not None:
            told = load_fork(trainer, fork)
        else:
            trainer.load_state_dict(source.state)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        if fork is not None:
            raise fork.misfit(error) from error
        reason = str(error).splitlines()[0]
        raise UserError(f"{source.path}: does not fit this configuration ({reason})") from error
    if folder is not None:
        _settle_in(source, folder)
    facts = trainer.state.results.facts
    summary = source.state["results"]["summary"]
    at = trainer.position
    facts["resumes"] = [
        *summary.get("resumes", []),
        {
            "from": source.origin,
            "at": datetime.now().isoformat(timespec="seconds"),
            "fork": source.fork,
            "model": summary.get("model"),
            "task": at.task,
            "global_step": at.global_step,
        },
    ]
    marks = [*summary.get("other_benchmark", []), *(fork.marks() if fork else ())]
    if marks:
        facts["other_benchmark"] = marks
        told += list(map(_marked, marks))
    where = f"task {at.task}, epoch {at.epoch}, step {at.step} (global step {at.global_step})"
    verb = "a fork of" if source.fork else "resumed from"
    messages = [f"{verb} {source.origin} at {where}"]
    if source.not_taken:
        typed = " ".join(source.not_taken)
        messages.append(f"no file sets {typed}: type it again to continue alike")
    return messages + told


def _require_same_draws(trainer: Trainer, source: RestorePoint) -> None:
    """Raises UserError where the rest of the run would draw other random numbers than it did."""
    rng = source.state.get("rng")
    version = rng.get("draws", 1) if isinstance(rng, Mapping) else 1
    if version == draws.VERSION or source.state["position"]["task"] >= trainer.n_tasks:
        return
    raise UserError(
        f"{source.path}: an earlier version of Perdure made the random draws of this run in "
        f"another way (scheme {version}, now {draws.VERSION}), so it cannot be resumed to the same "
        "bits; checkpoint.fork=true continues from its state as a run of its own, and checkpoint."
        "load=<a weights-only file beside it, as best.pth> starts from its weights"
    )


def _marked(mark: Mapping[str, Any]) -> str:
    return (
        f"another benchmark from task {mark['task']} on, so what was learned before is measured on "
        f"other tasks than it was trained on: {', '.join(mark['changed'])}"
    )


def _settle_in(source: RestorePoint, folder: Path) -> None:
    """Bring what belongs to the checkpoint into the folder in which the run is resumed."""
    there = source.path.parent.parent
    history = RunFiles(there).metrics
    if source.path.parent.name != CHECKPOINTS or there.resolve() == folder.resolve():
        return
    if is_own(history, there):
        shutil.copyfile(history, RunFiles(folder).metrics)
    copy_records(there, folder, source.state["position"]["task"])
    if source.fork:
        return
    home = RunFiles(folder).checkpoints
    atomic.make_folder(home)
    if not sidecars.path_of(home / source.path.name).exists():
        about = files.verify(source.path)
        files.link(source.path, home / source.path.name, about)
    if source.run_id and source.artifact and records.load(folder) is None:
        entity, project, _ = source.artifact.split("/")
        records.Record(id=source.run_id, project=project, entity=entity).save(folder)


def changes(now: Mapping[str, str], source: RestorePoint) -> Iterator[str]:
    """Where the software or the machine is another than the checkpoint's."""
    for name, before in source.state.get("versions", {}).items():
        if now.get(name) != before:
            yield f"{name} is {now.get(name)}, the checkpoint has {before}: the bits may differ"


def load_weights(trainer: Trainer, options: CheckpointConfig, start: Weights) -> list[str]:
    """Initialize the network with the weights in `start`; returns what the user should know.

    Args:
        trainer: freshly built.
        options: what of the weights to take.
        start: the weights.

    Raises:
        UserError: they do not fit.
    """
    from perdure.checkpoint.interop import mammoth

    opened = start.opened
    lines = [
        f"{opened.path.name} ({opened.kind}): {line}"
        for line in _fill(trainer.method.backbone, options, opened)
    ]
    if options.take_buffer:
        if trainer.state.buffer is None:
            raise UserError("checkpoint.take_buffer=true: this method keeps no buffer")
        lines += mammoth.take_buffer(
            opened,
            trainer.state.buffer,
            fields=trainer.method.stored_fields,
            shape=trainer.benchmark.shape,
            device=trainer.state.device,
        )
    return lines


def _fill(backbone: Backbone, options: CheckpointConfig, opened: Opened) -> list[str]:
    """Fill `backbone` from the file; returns what became of every tensor."""
    from perdure.checkpoint.interop import networks
    from perdure.checkpoint.interop.weights import fill

    source = opened.weights
    left_out: list[str] = []
    if options.map:
        source, left_out = networks.placed(opened, options.map, backbone)
    try:
        report = fill(
            backbone, source, allow_missing=options.allow_missing, new_head=options.new_head
        )
    except UserError as error:
        raise error if options.map else networks.with_hint(error, opened) from None
    return [*report.lines(), *left_out]
