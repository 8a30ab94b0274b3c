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
from perdure.models.base import Method
from perdure.randomness import Streams
from perdure.training.settings import Settings
from perdure.training.state import Position


class Step:
    """Callable on a raw batch; moves the network once.

    Args:
        method: the loss.
        transform: raw bytes to inputs, with augmentation.
        buffer: what replay draws from; none for a method without replay.
        streams: the run's random streams.
        settings: precision and clipping.
        device: where the tensors are.
    """

    def __init__(
        self,
        method: Method,
        transform: Scale,
        buffer: Buffer | None,
        streams: Streams,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.method = method
        self.transform = transform
        self.buffer = buffer
        self.streams = streams
        self.settings = settings
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "fp16" else None
        self._parameters = method.trainable()

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
            raw: uint8 [B, C, H, W].
            y: int64 [B].
            labels: the same labels on the host.
            optimizer: moves the parameters.
            position: where training stands; the key of every random draw.

        Returns:
            The loss, [] and detached, on the device.
        """
        at = {"task": position.task, "epoch": position.epoch, "step": position.step}
        self.streams.seed_torch("step", **at)
        batch, replay = self._batches(raw, y, at)
        with self._autocast():
            outcome = self.method.loss(batch, *replay)
            reference = self.method.reference(*replay)
        loss, memory = outcome if isinstance(outcome, tuple) else (outcome, {})
        optimizer.zero_grad()
        objective = self._backward(loss, reference, optimizer)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        self.method.after_step()
        if self.buffer is not None and self.method.stores == "step":
            generator = self.streams.numpy("remember", **at)
            self.buffer.add({"raw": raw, "y": y, **memory}, labels, generator)
        return objective

    def _batches(self, raw: Tensor, y: Tensor, at: dict[str, int]) -> tuple[Batch, list[Batch]]:
        """The current batch and the replay draws, each with its part of the augmentation."""
        parts = [{"raw": raw, "y": y}]
        for draw in range(self.method.replays):
            if self.buffer is None or not len(self.buffer):
                parts.append({"raw": raw[:0], "y": y[:0]})
                continue
            generator = self.streams.numpy("replay", **at, part=draw)
            parts.append(self.buffer.draw(self.buffer.batch_size, generator))
        sizes = [len(part["y"]) for part in parts]
        choices = self.transform.draw(sum(sizes), self.streams.numpy("augmentation", **at))
        if choices is None:
            augmentation: list[Tensor] | list[None] = [None] * len(parts)
        else:
            augmentation = list(choices.to(self.device, non_blocking=True).split(sizes))
        batches = [
            Batch(part.pop("raw"), part.pop("y"), self.transform, choice, part)
            for part, choice in zip(parts, augmentation, strict=True)
        ]
        return batches[0], batches[1:]

    def _backward(
        self, loss: Tensor, reference: Tensor | None, optimizer: torch.optim.Optimizer
    ) -> Tensor:
        """Leave the gradient of the whole objective in the parameters; returns its value."""
        gradient = None
        if reference is not None:
            gradient = list(
                torch.autograd.grad(
                    reference, self._parameters, allow_unused=True, materialize_grads=True
                )
            )
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(optimizer)
        self.method.after_backward(gradient)
        objective = loss.detach()
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
