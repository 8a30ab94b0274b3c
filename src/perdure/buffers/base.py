"""The replay buffer: storage of exemplars on the device, random draws, state.

Which examples are kept is decided by a policy (`perdure.buffers.policy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure.buffers.policy import Held, Offer, StepPolicy, TaskPolicy
from perdure.buffers.sampling import Uniforms, subsets
from perdure.errors import UserError


class Buffer:
    """At most `size` examples: raw bytes on the device, with labels and further stored fields.

    All decisions are made on the host from the caller's uniform numbers, so that nothing waits for
    the device and every rank of a distributed run makes the same ones.

    Args:
        policy: decides which examples are kept; the buffer's alone.

    Attributes:
        policy: the policy.
        track_tasks: whether a field `task`, int64 [], is stored with each example, and labels and
            tasks are known on the host too. To be set before the first example comes.
        changes: how often examples have been stored.
    """

    def __init__(self, policy: StepPolicy | TaskPolicy) -> None:
        if not isinstance(policy, StepPolicy | TaskPolicy):
            raise UserError(
                f"buffer._target_={type(policy).__module__}.{type(policy).__qualname__}: must be a "
                "class derived from perdure.buffers.policy.StepPolicy or TaskPolicy"
            )
        self.policy = policy
        # Known once: to ask an abstract class costs more at each step.
        self._by_step = policy if isinstance(policy, StepPolicy) else None
        self.track_tasks = policy.uses_tasks
        self.changes = 0
        self._fields: dict[str, Tensor] = {}
        self._labels = self._tasks = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.policy.held

    @property
    def size(self) -> int:
        """Capacity in examples."""
        return self.policy.size

    @size.setter
    def size(self, size: int) -> None:
        self.policy.size = size

    @property
    def batch_size(self) -> int:
        """Examples that a replay draw takes."""
        return self.policy.batch_size

    @property
    def seen(self) -> int:
        """How many examples have been offered so far."""
        return self.policy.seen

    @property
    def device(self) -> torch.device:
        """Where the examples are; StopIteration before the first one."""
        return next(iter(self._fields.values())).device

    @property
    def bytes_each(self) -> int:
        """Bytes of one example with all its stored fields; 0 before the first one comes."""
        return sum(
            stored.element_size() * stored.shape[1:].numel() for stored in self._fields.values()
        )

    @property
    def on_host(self) -> Held:
        """Labels and tasks of the stored examples, in the order of their slots.

        Raises:
            ValueError: the buffer does not track tasks.
        """
        if not self.track_tasks:
            raise ValueError("the buffer does not know the tasks of its examples: track_tasks")
        return Held(self._labels[: len(self)], self._tasks[: len(self)])

    def add(
        self,
        fields: dict[str, Tensor],
        labels: np.ndarray,
        uniforms: Uniforms,
        task: int = 0,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Offer examples: a batch, or all those of a task.

        Args:
            fields: tensors [B, …] on one device, the same names and shapes at every call.
            labels: int64 [B] on the host, the same as `fields["y"]`.
            uniforms: source of the random decisions.
            task: index of the task that they are from.
            info: what the policy `needs` of each example, [B, …] each.

        Raises:
            UserError: another method filled the buffer.
            ValueError: the policy needs information that is not there.
        """
        info = info or {}
        if self.policy.needs:
            missing = [key for key in self.policy.needs if key not in info]
            if missing:
                raise ValueError(f"{type(self.policy).__name__} needs {', '.join(missing)}")
        self._offer(fields, Offer(labels, task, info), uniforms)

    def _offer(self, fields: dict[str, Tensor], offer: Offer, uniforms: Uniforms) -> None:
        policy = self.policy
        if not len(offer):
            return
        if self.track_tasks and "task" not in fields:
            fields = {**fields, "task": torch.full_like(fields["y"], offer.task)}
        if self._by_step is not None:
            rows, slots = self._by_step.place(offer, uniforms)
            if rows:
                self._put(fields, offer, rows, slots)
        elif isinstance(policy, TaskPolicy):
            self._replace(fields, offer, *policy.choose(self.on_host, offer, uniforms))
        policy.seen += len(offer)

    def _put(
        self, fields: dict[str, Tensor], offer: Offer, rows: list[int], slots: list[int]
    ) -> None:
        """Store rows of an offer in these slots."""
        self._allocate(fields)
        take = torch.tensor(rows).to(self.device, non_blocking=True)
        put = torch.tensor(slots).to(self.device, non_blocking=True)
        for key, stored in self._fields.items():
            value = fields[key]
            value = value.detach() if value.requires_grad else value
            stored.index_copy_(0, put, value.index_select(0, take))
        if self.track_tasks:
            self._labels[slots], self._tasks[slots] = offer.labels[rows], offer.task
        self.policy.held = max(len(self), max(slots) + 1)
        self.changes += 1

    def _replace(
        self, fields: dict[str, Tensor], offer: Offer, kept: np.ndarray, rows: np.ndarray
    ) -> None:
        """The examples in slots `kept`, then rows of an offer, are all that is held from now on."""
        n, before = len(kept) + len(rows), self.on_host
        if n > self.size:
            raise ValueError(f"the policy chose {n} examples for {self.size} places")
        self._allocate(fields)
        keep = torch.from_numpy(kept).to(self.device)
        take = torch.from_numpy(rows).to(self.device)
        for key, stored in self._fields.items():
            new = fields[key].detach().index_select(0, take)
            stored[:n] = torch.cat((stored.index_select(0, keep), new))
        self._labels[:n] = np.concatenate((before.labels[kept], offer.labels[rows]))
        self._tasks[:n] = np.concatenate((before.tasks[kept], np.full(len(rows), offer.task)))
        self.policy.held = n
        self.changes += 1

    def _allocate(self, fields: dict[str, Tensor]) -> None:
        """Make room like `fields`, or see that they are those that are stored."""
        if not self._fields:
            self._fields = {
                key: value.new_zeros((self.size, *value.shape[1:])) for key, value in fields.items()
            }
            self._labels, self._tasks = np.zeros((2, self.size), dtype=np.int64)
        if fields.keys() != self._fields.keys():
            raise UserError(
                f"the buffer holds {', '.join(self._fields)} of each example, the method gives "
                f"{', '.join(fields)}: another method filled it"
            )

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
        self.overwrite(slots, fields)

    def overwrite(self, slots: Tensor, fields: Mapping[str, Tensor]) -> None:
        """`rewrite` of slots that are known to be in use, as those of a draw; nothing waits."""
        for key, value in fields.items():
            self._fields[key].index_copy_(0, slots.to(self.device), value.detach())

    def contents(self) -> dict[str, Tensor]:
        """All stored examples, in the order of their slots."""
        return {key: stored[: len(self)] for key, stored in self._fields.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume: the examples, the counters, and the policy's own state."""
        counts = {"size": self.size, "seen": self.seen, "filled": len(self)}
        return {**counts, "fields": self.contents(), **self.policy.state_dict()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Restore a `state_dict()` of a buffer of the same size and policy.

        Raises:
            UserError: the saved buffer has another size, or lacks the tasks of its examples.
        """
        policy = self.policy
        if state["size"] != self.size:
            raise UserError(
                f"buffer.size={self.size}: the checkpoint's buffer has size {state['size']}"
            )
        if self.track_tasks and state["fields"] and "task" not in state["fields"]:
            raise UserError(
                "buffer: the checkpoint's buffer does not say of which task each example is"
            )
        policy.load_state_dict(state)
        policy.seen, policy.held = state["seen"], state["filled"]
        self._fields = {}
        for key, value in state["fields"].items():
            stored = value.new_zeros((self.size, *value.shape[1:]), device=device)
            stored[: len(self)].copy_(value)
            self._fields[key] = stored
        self.changes += 1
        if self.track_tasks and self._fields:
            both = (self._fields["y"], self._fields["task"])
            self._labels, self._tasks = (field.cpu().numpy().copy() for field in both)

    def adopt(
        self,
        state: dict[str, Any],
        uniforms: Uniforms,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fill this empty buffer from the `state_dict()` of one of another size or policy.

        Its examples are offered as a stream, and count for all that it has seen: so a smaller
        reservoir is a sample of the same stream. Where they say of which task they are, and that
        matters, the tasks come one after another.
        """
        order, fields = self.policy.order_of(state), state["fields"]
        if order is not None:
            fields = {key: value[torch.tensor(order)] for key, value in fields.items() if order}
        for task, part in self._by_task(fields):
            labels = part["y"].cpu().numpy()
            there = {key: value.to(device) for key, value in part.items()}
            self._offer(there, Offer(labels, task), uniforms)
        self.policy.adopted(state)

    def _by_task(self, fields: dict[str, Tensor]) -> list[tuple[int, dict[str, Tensor]]]:
        """Tasks, and the fields of their examples."""
        if not fields:
            return []
        if not self.track_tasks or "task" not in fields:
            return [(0, fields)]
        tasks = fields["task"]
        return [
            (task, {key: value[tasks == task] for key, value in fields.items()})
            for task in tasks.unique().tolist()
        ]
