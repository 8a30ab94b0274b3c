"""The training step: replay, forward, backward, optimizer step, and the offer to the buffer.

Nothing here waits for the device (no `.item()`, no host sync), and nothing loops over examples in
Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.config.schema import Precision, ReplaySync
from perdure.datasets.batch import Batch
from perdure.datasets.loss_scope import scopes
from perdure.datasets.transforms import Scale
from perdure.distributed.control_flags import ControlFlags
from perdure.distributed.process_group import Ranks
from perdure.distributed.sharded_step import PassResult, ShardedStep
from perdure.errors import UserError
from perdure.models.base import Method, StepOutput
from perdure.models.phase import MAIN, Phase
from perdure.randomness import Streams, seed_generators
from perdure.training.draws import BLOCK, At, BlockStream
from perdure.training.information import Information
from perdure.training.network_setup import autocast, prepare_network, reduction_of
from perdure.training.probe import Probe
from perdure.training.replay import Local, Replicated, stores_each_step
from perdure.training.settings import Settings
from perdure.training.state import Position


class Step:
    """The optimizer steps on one batch, called with a raw batch.

    Args:
        method: computes the loss.
        transform: raw bytes to inputs, with augmentation.
        buffer: the replay buffer; None for a method without replay.
        streams: the run's random streams.
        settings: precision, clipping, and how a batch is split.
        device: where the tensors are.
        control: the run's control flags, and the ranks that share the work; one process by default.
    """

    def __init__(
        self,
        method: Method,
        transform: Scale,
        buffer: Buffer | None,
        streams: Streams,
        settings: Settings,
        device: torch.device,
        control: ControlFlags | None = None,
    ) -> None:
        self.method = method
        self.transform = transform
        self.streams = streams
        self.settings = settings
        self.device = device
        self._buffer = buffer
        self.control = control or ControlFlags(Ranks(), device)
        scales = settings.precision is Precision.fp16
        self.scaler = torch.amp.GradScaler(device.type) if scales else None
        ranks, local = self.control.ranks, settings.replay_sync is ReplaySync.local
        self.replay: Replicated | None = None
        if buffer is not None and local:
            shards = settings.n_shards
            self.replay = Local(buffer, method, streams, settings.batch_size, ranks, shards)
        elif buffer is not None:
            self.replay = Replicated(buffer, method, streams, settings.batch_size)
        self._information: Information | None = None
        self._augments = transform.is_random
        self._autocast = autocast(settings.precision, device)
        if buffer is not None and buffer.policy.needs:
            self._information = Information(method, buffer, transform, self._autocast)
        self._calls = _Calls.of(method)
        self._seeds = [BlockStream(streams, "step", 1, part) for part in range(settings.n_shards)]
        # Before any optimizer knows the parameters: FSDP replaces them.
        reduction = prepare_network(method, ranks, settings)
        self._parameters: list[torch.nn.Parameter] = []
        self._after_gradient = BlockStream(streams, "after_backward", 1)
        self._sharded: ShardedStep | None = None
        if settings.n_shards > 1:
            self._sharded = ShardedStep(method, ranks, settings.n_shards, reduction, local)
        self.logged: dict[str, Tensor] = {}
        """What the method logged at the last call, {name: []}."""
        self.examples = (0, 0)
        """Of the batch and of its replay draws at the last call, as often as they were used."""
        self._use_structure()
        self.begin(MAIN)

    def begin(self, phase: Phase) -> None:
        """Train on batches of `phase` from now on."""
        own = self.settings.loss_scope
        self._loss_scope = own.name if own else self.method.loss_scope
        self._of_task = phase.data == "task"
        self._draws = self._of_task and bool(self.method.replays)
        self._stores = self._of_task and stores_each_step(self.method, self._buffer)
        self._clip_norm = self.settings.clip_norm if phase.clip_norm is None else phase.clip_norm

    def __call__(
        self,
        raw: Tensor,
        y: Tensor,
        labels: np.ndarray,
        optimizer: torch.optim.Optimizer,
        position: Position,
    ) -> Tensor | None:
        """Train on one batch.

        Args:
            raw: uint8 [B, C, H, W], the global batch on every rank.
            y: int64 [B].
            labels: the same labels on the host.
            optimizer: updates the parameters.
            position: the training position, which keys every random draw.

        Returns:
            The loss, [] and detached, on the device: the caller decides when to wait for it. None
            where the method took no step.
        """
        at = {"task": position.task, "epoch": position.epoch, "step": position.step}
        batches = self._batches(raw, y, at)
        n, replayed = len(raw), self._n_drawn
        result = self._update(batches, optimizer, at)
        objective = result.loss
        if self._calls.updates or self.settings.updates > 1:
            for update in range(1, self._n_updates(batches[0])):
                again = {**at, "update": update}
                self.method.update = update
                result = self._update(self._batches(raw, y, again), optimizer, again)
                objective = result.loss
                n, replayed = n + len(raw), replayed + self._n_drawn
            self.method.update = 0
        self.examples = (n, replayed)
        if self._calls.after_batch:
            self.method.after_batch()
        self.logged = result.log
        # Last, so that a batch is never replayed in its own step. The buffer chooses slots by the
        # labels on the host: reading `y` back would wait for the whole step.
        if self._stores and self.replay is not None:
            info = None if self._information is None else self._information.of_step(raw, y)
            self.replay.add({"raw": raw, "y": y}, result.stored, labels, at, info)
        return objective

    def probed(self, probe: Probe, *batch: Any) -> Tensor | None:
        """The same, watched by `probe`."""
        whole = self._forward_backward

        def of_part(*parts: Any) -> PassResult:
            with probe.part():
                return whole(*parts)

        self._forward_backward = of_part  # type: ignore[method-assign, assignment]
        try:
            with probe:
                return self(*batch)
        finally:
            del self._forward_backward

    def _n_updates(self, batch: Batch) -> int:
        return self.method.updates(batch) if self._calls.updates else self.settings.updates

    def _update(self, batches: list[Batch], optimizer: torch.optim.Optimizer, at: At) -> PassResult:
        """One optimizer step; the result's loss is the whole objective, with the penalty."""
        if self._information is not None and self._stores:
            self._information.before_update(batches)
        optimizer.zero_grad()
        result = self._compute_gradient(batches, at)
        if self._calls.any:
            self._seed(self._after_gradient, at)
        if result.loss is not None:
            result.loss = self._finish_gradient(result.loss, result.references, optimizer)
            if self.scaler is None:
                optimizer.step()
            else:
                self.scaler.step(optimizer)
                self.scaler.update()
        if self._calls.after_step:
            self.method.after_step(result.rows, result.sums)
        if result.rewrite and self.replay is not None:
            for draw, fields in sorted(result.rewrite.items()):
                self.replay.rewrite(batches[1 + draw]["index"], fields)
        return result

    def _batches(self, raw: Tensor, y: Tensor, at: At) -> list[Batch]:
        """The current batch and the replay draws, each with its part of the augmentation."""
        draws = []
        if self.replay is not None:
            draws = self.replay.draw(raw, y, at) if self._draws else self.replay.nothing(raw, y)
        n = start = raw.shape[0]
        self._n_drawn = sum([draw.total for draw in draws])
        views = None
        if self._augments:
            views = self._views(n + self._n_drawn, at)
        now = past = None
        if self._loss_scope != "full":
            now, past = scopes(self._loss_scope, self.method.task)
            if not self._of_task:  # examples of the memory are among those that are trained on
                now = past
        batches = [Batch(raw, y, self.transform, _rows(views, 0, n), scope=now)]
        for draw in draws:
            stored = draw.fields
            drawn, labels = stored.pop("raw"), stored.pop("y")
            first = start + draw.first
            choices = _rows(views, first, first + len(labels))
            batches.append(
                Batch(drawn, labels, self.transform, choices, stored, draw.total, scope=past)
            )
            start += draw.total
        return batches

    def _views(self, total: int, at: At) -> Tensor | None:
        """The augmentation of each view of `total` examples, [total, …] or [total, views, …].

        None where a transform draws nothing after all.

        Drawn once for the global examples of all parts, and copied without waiting: every rank
        takes its slice of the same choices, whatever the world size.
        """
        place = {key: at[key] for key in ("task", "epoch", "step")}
        first = at.get("update", 0) * self.method.views
        parts = range(first, first + self.method.views)
        drawn = [
            self.transform.draw(total, self.streams.numpy("augmentation", **place, part=part))
            for part in parts
        ]
        views = [choices for choices in drawn if choices is not None]
        if not views:
            return None
        whole = views[0] if len(parts) == 1 else torch.stack(views, 1)
        return whole.to(self.device, non_blocking=True)

    def _compute_gradient(self, batches: list[Batch], at: At) -> PassResult:
        """Leave the gradient of the loss over the global batch in `p.grad`."""
        if self._sharded is None:
            return self._forward_backward(batches, 0, at)
        result, flags = self._sharded(
            batches,
            lambda parts, shard: self._forward_backward(parts, shard, at),
            self.control.local(),
        )
        self.control.merge(flags)
        return result

    def _forward_backward(self, parts: list[Batch], shard: int, at: At) -> PassResult:
        """Forward and backward pass over one shard."""
        # Whatever draws from torch's generators, as dropout does, follows from the position.
        self._seed(self._seeds[shard], at)
        method, references = self.method, None
        try:
            with self._autocast:
                output = method.loss(*parts)
                if self._calls.references:
                    references = self._gradients(method.references(*parts[1:]))
        except ValueError as error:
            raise _batch_norm_error(error, self.settings.n_shards) from error
        loss: Tensor | None
        if isinstance(output, StepOutput):
            loss, more = output.loss, (output.rows, output.sums, output.rewrite, output.log)
            result = PassResult(None, output.remember, references, *more)
        else:
            loss, result = output, PassResult(None, references=references)
        if loss is None:
            return result
        if not loss.requires_grad:
            raise UserError(
                f"model: the loss of {type(method).__name__} depends on no parameter that is "
                "trained; where there is nothing to optimize, return StepOutput(None)"
            )
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        result.loss = loss.detach()
        return result

    def _gradients(self, losses: Iterable[Tensor]) -> Tensor | None:
        """The gradient of each loss, [k, P]; None of no loss.

        Not by `backward`, which would add them to the loss's own.
        """
        rows = []
        for loss in losses:
            with torch.autocast(self.device.type, enabled=False):
                parts = torch.autograd.grad(
                    loss, self._parameters, allow_unused=True, materialize_grads=True
                )
            rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows) if rows else None

    def _seed(self, stream: BlockStream, at: At) -> None:
        seed = int(stream.block(at)[at["step"] % BLOCK, 0] * 2**53)
        if "update" in at:  # rare, so that it need not be as cheap as the first one
            seed = int(stream.beyond(1, at)[0] * 2**53)
        seed_generators(seed)

    def renew_parameters(self) -> None:
        """The method has grown: its new parameters take part from now on."""
        self._use_structure()
        if self._sharded is not None:
            self._sharded.reduction = reduction_of(self.method, self.control.ranks, self.settings)

    def _use_structure(self) -> None:
        """What follows from the modules that the method has now."""
        self._parameters = self.method.trainable()
        self.method.one_forward = self.settings.one_forward and self.method.rows_are_independent

    def _finish_gradient(
        self, loss: Tensor, references: Tensor | None, optimizer: torch.optim.Optimizer
    ) -> Tensor:
        """Unscale, project, add the penalty and clip; returns the whole objective's value.

        All of this follows from the loss's gradient and the parameters alone, so every rank
        computes it alike. The order matters: `after_backward` sees the gradient of the loss in
        true size (A-GEM compares it, SI integrates it), the penalty's is added after that, and the
        norm that is clipped is that of the sum.
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        calls, objective = self._calls, loss
        if calls.after_backward:
            self.method.after_backward(references)
        penalty = self.method.penalty() if calls.penalty else None
        if penalty is not None:
            penalty.backward()
            objective = objective + penalty.detach()
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        return objective


@dataclass(frozen=True)
class _Calls:
    """Which hooks of a method do anything: the others are not called at each step."""

    references: bool
    after_backward: bool
    penalty: bool
    updates: bool
    after_step: bool
    after_batch: bool

    @property
    def any(self) -> bool:
        """Whether something of the method runs after the gradient is there."""
        return self.after_backward or self.penalty or self.after_step or self.after_batch

    @classmethod
    def of(cls, method: Method) -> _Calls:
        return cls(**{field.name: method.defines(field.name) for field in fields(cls)})


def _rows(views: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if views is None else views[start:stop]


def _batch_norm_error(error: ValueError, shards: int) -> Exception:
    """The UserError for torch's refusal of one value a channel; any other error as it is.

    The sizes of batches were checked at the start: a replay draw was of one, or a shard is.
    """
    if "more than 1 value per channel" not in str(error):
        return error
    if shards > 1:
        return UserError(
            f"training.shards={shards}: a shard of a single example has no batch statistics; "
            "choose fewer shards, a dataset.batch_size that leaves a larger last batch, a larger "
            "buffer.batch_size, or training.sync_batchnorm=true"
        )
    return UserError(
        "a replay draw of a single example has no batch statistics, which the network's batch norm "
        "needs; give a larger buffer.batch_size and buffer.size"
    )
