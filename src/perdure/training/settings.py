"""Training settings as plain values: batch size, epochs, precision, gradient clipping, shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        batch_size: examples of the current task a step, over all ranks.
        epochs: passes over each task.
        iterations: steps a task, instead of `epochs`.
        joint: train on all tasks at once instead of one after another.
        stop_after: train only the first so many tasks.
        seed: seed of every random draw of training.
        precision: fp32, or automatic mixed precision in bf16 or fp16.
        clip_norm: largest norm of the gradient; None does not clip.
        evaluate_every: epochs between evaluations within a task; None evaluates at its end only.
        evaluate_future: also evaluate tasks that are not trained yet, and the untrained network.
        eval_batch_size: examples a forward pass at evaluation.
        log_every: steps between reads of the loss, each a host sync.
        reset_optimizer: start each task with a fresh optimizer and scheduler.
        scheduler_per: whether the scheduler counts epochs or steps.
        shards: parts that every batch is split into, whatever the number of processes.
        exact: sum the shards' gradients in their order, so that the world size changes no bit.
        replay_sync: whether every process keeps the whole buffer or a part of it (local).
        sync_batchnorm: take batch statistics over the global batch instead of over each shard.
        parallel: whether every process holds the whole network or a part of it (fsdp).
    """

    batch_size: int
    epochs: int = 1
    iterations: int | None = None
    joint: bool = False
    stop_after: int | None = None
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float | None = None
    evaluate_every: int | None = None
    evaluate_future: bool = False
    eval_batch_size: int = 1000
    log_every: int = 100
    reset_optimizer: bool = True
    scheduler_per: Literal["epoch", "step"] = "epoch"
    shards: int = 1
    exact: bool = True
    replay_sync: Literal["replicated", "local"] = "replicated"
    sync_batchnorm: bool = False
    parallel: Literal["replicate", "fsdp"] = "replicate"

    def __post_init__(self) -> None:
        at_least_one = ("batch_size", "epochs", "eval_batch_size", "log_every", "shards")
        optional = ("iterations", "stop_after", "evaluate_every")
        for key in (*at_least_one, *optional):
            value = getattr(self, key)
            if value is None and key in optional:
                continue
            if value < 1:
                raise UserError(f"{key}={value}: must be 1 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"clip_norm={self.clip_norm}: must be above 0, or null")
