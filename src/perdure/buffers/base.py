"""The base of replay buffers: storage, random draws, state; a subclass chooses what is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.sampling import Uniforms, subsets
from perdure.errors import UserError

Placement = tuple[list[int], list[int]]
"""Rows of the offered batch, and the slot that each of them takes (no slot twice)."""


class Buffer(ABC):
    """At most `size` examples: raw bytes on the device, with labels and further stored fields.

    All decisions are made on the host from the caller's uniform numbers, so that nothing waits for
    the device and every rank of a distributed run makes the same ones.

    Args:
        size: capacity in examples.
        batch_size: examples a replay draw takes.
    """

    numbers_per_example: ClassVar[int] = 1
    """Uniform numbers that `place` takes for each example offered."""

    def __init__(self, size: int, batch_size: int) -> None:
        if size < 1:
            raise UserError(f"buffer.size={size}: must be 1 or more (buffer=none keeps nothing)")
        if batch_size < 1:
            raise UserError(f"buffer.batch_size={batch_size}: must be 1 or more")
        self.size = size
        self.batch_size = batch_size
        self.seen = 0
        """How many examples have been offered so far."""
        self._filled = 0
        self._fields: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return self._filled

    @property
    def device(self) -> torch.device:
        """Where the examples are; StopIteration before the first one."""
        return next(iter(self._fields.values())).device

    def add(self, fields: dict[str, Tensor], labels: np.ndarray, uniforms: Uniforms) -> None:
        """Offer a batch of examples.

        Args:
            fields: tensors [B, …] on one device, the same names and shapes at every call.
            labels: int64 [B] on the host, the same as `fields["y"]`.
            uniforms: source of the random decisions.
        """
        if not len(labels):
            return
        rows, slots = self.place(labels, uniforms)
        self.seen += len(labels)
        if not rows:
            return
        if not self._fields:
            self._fields = {
                key: value.new_zeros((self.size, *value.shape[1:])) for key, value in fields.items()
            }
        if fields.keys() != self._fields.keys():
            raise UserError(
                f"the buffer holds {', '.join(self._fields)} of each example, the method gives "
                f"{', '.join(fields)}: another method filled it"
            )
        take = torch.tensor(rows).to(self.device, non_blocking=True)
        put = torch.tensor(slots).to(self.device, non_blocking=True)
        for key, stored in self._fields.items():
            value = fields[key]
            value = value.detach() if value.requires_grad else value
            stored.index_copy_(0, put, value.index_select(0, take))
        self._filled = max(self._filled, max(slots) + 1)

    def draw(self, n: int, uniforms: Uniforms) -> dict[str, Tensor]:
        """`n` stored examples, uniformly without replacement; all of them when there are fewer."""
        rows = subsets(uniforms.random((1, min(n, len(self)))), len(self))[0]
        return self.select(torch.from_numpy(rows).to(self.device, non_blocking=True))

    def select(self, slots: Tensor) -> dict[str, Tensor]:
        """The examples in these slots, int64 [n] on the buffer's device; copies."""
        return {key: stored.index_select(0, slots) for key, stored in self._fields.items()}

    def rewrite(self, slots: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Replace fields of the examples in `slots`, int64 [n], by `fields`, [n, …] each.

        Raises:
            ValueError: there is no such slot or field.
        """
        unknown = sorted(fields.keys() - self._fields.keys())
        if unknown:
            raise ValueError(f"the buffer holds no {', '.join(unknown)} of its examples")
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(self):
            raise ValueError(f"the buffer holds {len(self)} examples: no such slot")
        for key, value in fields.items():
            self._fields[key].index_copy_(0, slots.to(self.device), value.detach())

    def contents(self) -> dict[str, Tensor]:
        """All stored examples, in the order of their slots."""
        return {key: stored[: len(self)] for key, stored in self._fields.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume: the examples, the counters, and the policy's own state."""
        fields = {key: stored[: len(self)] for key, stored in self._fields.items()}
        return {"size": self.size, "seen": self.seen, "filled": len(self), "fields": fields}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore a `state_dict()` of a buffer of the same size.

        Raises:
            UserError: the saved buffer has another size.
        """
        if state["size"] != self.size:
            raise UserError(
                f"buffer.size={self.size}: the checkpoint's buffer has size {state['size']}"
            )
        self.seen, self._filled = state["seen"], state["filled"]
        self._fields = {}
        for key, value in state["fields"].items():
            stored = value.new_zeros((self.size, *value.shape[1:]), device=device)
            stored[: self._filled].copy_(value)
            self._fields[key] = stored

    def adopt(
        self,
        state: dict[str, Any],
        uniforms: Uniforms,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fill this empty buffer from the `state_dict()` of one of another size or policy.

        Its examples are offered as a stream, and count for all that it has seen: so a smaller
        reservoir is a sample of the same stream.
        """
        fields = {key: value.to(device) for key, value in state["fields"].items()}
        if fields:
            self.add(fields, fields["y"].cpu().numpy(), uniforms)
        self.seen = state["seen"]

    @abstractmethod
    def place(self, labels: np.ndarray, uniforms: Uniforms) -> Placement:
        """Which rows of an offered batch are stored, and where.

        The batch holds at least one example; `self.seen` counts those before it.
        """
