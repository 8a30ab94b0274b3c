"""One optimizer step: replay, forward, backward, update, remember. Nothing here waits for the
device, and nothing loops over examples in Python."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.distributed.control_flags import Agreement
from perdure.distributed.process_group import Ranks
from perdure.distributed.sharded_step import Outcome, Sharding
from perdure.models.base import Method
from perdure.randomness import Streams
from perdure.training.preparation import prepare
from perdure.training.replay import Draw, Local, Replicated
from perdure.training.settings import Settings
from perdure.training.state import Position


class Step:
    """Callable on a raw batch; moves the network once.

    Args:
        method: the loss.
        transform: raw bytes to inputs, with augmentation.
        buffer: what replay draws from; none for a method without replay.
        streams: the run's random streams.
        settings: precision, clipping, and how a batch is split.
        device: where the tensors are.
        ranks: who shares the work.
    """

    def __init__(
        self,
        method: Method,
        transform: Scale,
        buffer: Buffer | None,
        streams: Streams,
        settings: Settings,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.method = method
        self.transform = transform
        self.streams = streams
        self.settings = settings
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
        ranks = ranks or Ranks()
        self.agreement = Agreement(ranks, device)
        self.replay: Replicated | None = None
        if buffer is not None and settings.replay_sync == "local":
            self.replay = Local(buffer, method, streams, ranks, settings.shards)
        elif buffer is not None:
            self.replay = Replicated(buffer, method, streams)
        reduction = prepare(method, ranks, settings)
        self._parameters = method.trainable()
        self._sharding: Sharding | None = None
        if settings.shards > 1:
            local = settings.replay_sync == "local"
            self._sharding = Sharding(method, ranks, settings.shards, reduction, local)

    def __call__(
        self,
        raw: Tensor,
        y: Tensor,
        labels: np.ndarray,
        optimizer: torch.optim.Optimizer,
        position: Position,
    ) -> Tensor:
        """Train on one batch.

        Args:
            raw: uint8 [B, C, H, W], the global batch on every rank.
            y: int64 [B].
            labels: the same labels on the host.
            optimizer: moves the parameters.
            position: where training stands; the key of every random draw.

        Returns:
            The loss, [] and detached, on the device.
        """
        at = {"task": position.task, "epoch": position.epoch, "step": position.step}
        batches = self._batches(raw, y, at)
        optimizer.zero_grad()
        outcome = self._gradient(batches, at)
        objective = self._finish_gradient(outcome, optimizer)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        self.method.after_step()
        if self.replay is not None and self.method.stores == "step":
            self.replay.add({"raw": raw, "y": y}, outcome.memory, labels, at)
        return objective

    def _batches(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> list[Batch]:
        """The current batch and the replay draws, each with its part of the augmentation."""
        draws = [Draw({"raw": raw, "y": y}, len(y))]
        if self.replay is not None:
            draws += self.replay.draw(raw, y, at)
        n = sum([draw.total for draw in draws])
        choices = self.transform.draw(n, self.streams.numpy("augmentation", **at))
        if choices is not None:
            choices = choices.to(self.device, non_blocking=True)
        batches, start = [], 0
        for draw in draws:
            memory = dict(draw.fields)
            drawn, labels = memory.pop("raw"), memory.pop("y")
            choice = None
            if choices is not None:
                first = start + draw.first
                choice = choices[first : first + len(labels)]
            batches.append(Batch(drawn, labels, self.transform, choice, memory, draw.total))
            start += draw.total
        return batches

    def _gradient(self, batches: list[Batch], at: dict[str, int]) -> Outcome:
        """Leave the gradient of the loss over the global batch in the parameters."""
        if self._sharding is None:
            return self._run(batches, 0, at)
        outcome, asked = self._sharding(
            batches, lambda parts, shard: self._run(parts, shard, at), self.agreement.wishes()
        )
        self.agreement.take(asked)
        return outcome

    def _run(self, parts: list[Batch], shard: int, at: dict[str, int]) -> Outcome:
        """Forward and backward pass over one shard."""
        self.streams.seed_torch("step", **at, part=shard)
        batch, *replay = parts
        with self._autocast():
            given = self.method.loss(batch, *replay)
            reference = self.method.reference(*replay)
        loss, memory = given if isinstance(given, tuple) else (given, {})
        gradient = None
        if reference is not None:
            gradient = list(
                torch.autograd.grad(
                    reference, self._parameters, allow_unused=True, materialize_grads=True
                )
            )
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return Outcome(loss.detach(), memory, gradient)

    def _finish_gradient(self, outcome: Outcome, optimizer: torch.optim.Optimizer) -> Tensor:
        """What follows from the loss's gradient and the parameters alone, alike on every rank;
        returns the whole objective's value."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        self.method.after_backward(outcome.reference)
        objective = outcome.loss
        penalty = self.method.penalty()
        if penalty is not None:
            penalty.backward()
            objective = objective + penalty.detach()
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_norm)
        return objective

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.precision == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)
