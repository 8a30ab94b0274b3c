"""Exemplar selection: the two kinds of buffer policy, and what is offered to them.

A policy decides which examples a replay buffer keeps, on the host and from the caller's uniform
numbers; the buffer (`perdure.buffers.base`) stores them. A *step policy* is offered a batch at a
time and gives each example that it takes a slot. A *task policy* is offered all examples of a task
at its end and chooses the whole memory anew, so that classes can shrink.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from perdure.buffers.sampling import Uniforms
from perdure.errors import UserError

Placement = tuple[list[int], list[int]]
"""Rows of the offered batch, and the slot that each of them takes (no slot twice)."""

INFORMATION = ("features", "losses", "gradients")
"""What a policy can be given of the examples that it is offered.

"features", float [B, d] of the network, at a task's end alone; "losses", float64 [B] on the host,
the cross-entropy of each in the step that offers it, or at the task's end; "gradients", a
`Gradients` object for them.
"""


class Gradients(Protocol):
    """Gradients of the loss of each offered example, compared with those of stored ones."""

    def cosines(self, slots: np.ndarray) -> np.ndarray:
        """Their cosines with those of the examples in `slots`, int64 [n]; float64 [B, n]."""


@dataclass(slots=True)
class Offer:
    """Examples offered to a policy.

    Attributes:
        labels: int64 [B], on the host.
        task: index of the task that they are from.
        info: what the policy `needs` of each, by name, [B, …] each; empty where examples are taken
            over from another buffer, of which nothing more is known.
    """

    labels: np.ndarray
    task: int = 0
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(slots=True)
class Held:
    """What the memory holds, in the order of its slots.

    Attributes:
        labels: int64 [N].
        tasks: int64 [N], the task that each example was offered in.
    """

    labels: np.ndarray
    tasks: np.ndarray


class Policy:
    """Decides which examples a buffer keeps; derive from `StepPolicy` or `TaskPolicy`.

    Args:
        size: capacity in examples.
        batch_size: examples that a replay draw takes.

    Attributes:
        seen: how many examples have been offered so far. The buffer counts them, after each offer.
        held: how many examples the buffer holds; the buffer sets it.
    """

    name: ClassVar[str] = ""
    """The option of `conf/buffer/`, for messages."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Information on each example that comes with an offer, of `INFORMATION`."""

    numbers_per_example: ClassVar[int] = 1
    """Uniform numbers that a decision takes for each example offered."""

    uses_tasks: ClassVar[bool] = False
    """Whether it must be known of each stored example which task it is from."""

    stays_full: ClassVar[bool] = False
    """Whether it holds as many examples as it has been offered, up to its size, whatever they are:
    then processes that keep a part each know by counting what the others hold."""

    def __init__(self, size: int, batch_size: int) -> None:
        if size < 1:
            raise UserError(f"buffer.size={size}: must be 1 or more (buffer=none keeps nothing)")
        if batch_size < 1:
            raise UserError(f"buffer.batch_size={batch_size}: must be 1 or more")
        self.size = size
        self.batch_size = batch_size
        self.seen = 0
        self.held = 0

    @property
    def at_task_end(self) -> bool:
        """Whether examples are to be offered at a task's end only, whatever the method does."""
        return "features" in self.needs

    def replayed(self, slots: np.ndarray, losses: np.ndarray) -> None:
        """The examples in `slots`, int64 [n], are replayed in this step, with these losses.

        Called before the step's offer where the policy needs "losses"; float64 [n].
        """

    def state_dict(self) -> dict[str, Any]:
        """What the policy knows besides its size and what the buffer counts; plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict()`, which may be part of a larger one."""

    def fits(self, state: Mapping[str, Any]) -> bool:
        """Whether the state of a buffer of this policy can be loaded as it is."""
        return bool(state["size"] == self.size)

    def order_of(self, state: Mapping[str, Any]) -> list[int] | None:
        """The slots of a saved buffer in the order in which their examples came, where known."""
        return None

    def adopted(self, state: Mapping[str, Any]) -> None:
        """The examples of `state`, a buffer's of another size or policy, have been offered."""
        self.seen = state["seen"]


class StepPolicy(Policy, ABC):
    """Decides on each batch as it comes, at every step or at a task's end."""

    @abstractmethod
    def place(self, offer: Offer, uniforms: Uniforms) -> Placement:
        """Which rows of an offer are stored, and where.

        The slots in use are 0, 1, …: a new one follows the last. The offer holds at least one
        example; `self.seen` and `self.held` are those before it.

        Args:
            offer: the examples.
            uniforms: gives `numbers_per_example` numbers for each; the same ones at each call.
        """


class TaskPolicy(Policy, ABC):
    """Chooses the memory anew at a task's end."""

    uses_tasks: ClassVar[bool] = True

    @property
    def at_task_end(self) -> bool:
        return True

    @abstractmethod
    def choose(self, held: Held, offer: Offer, uniforms: Uniforms) -> tuple[np.ndarray, np.ndarray]:
        """The slots that stay, and the offered rows that follow them, int64 in this order.

        The new memory is held[slots] + offer[rows], at most `self.size` examples.
        """


def check(
    policy: Policy,
    stored_fields: Sequence[str] = (),
    stores_each_step: bool = True,
    annotates: bool = False,
) -> None:
    """Refuse a policy that cannot be given what it needs.

    A policy that is offered examples at a task's end alone suits a method that stores at each step
    too, since what is then stored can be computed then, unless the method has no `annotate`.

    Args:
        policy: the policy.
        stored_fields: what the method stores with each example.
        stores_each_step: whether the method computes these fields at each step.
        annotates: whether it can compute them at a task's end.

    Raises:
        UserError: says what is missing.
    """
    name = policy.name or type(policy).__name__
    unknown = sorted(set(policy.needs) - set(INFORMATION))
    if unknown:
        raise UserError(
            f"buffer={name}: needs {', '.join(unknown)} of each example; what a policy can be "
            f"given is {', '.join(INFORMATION)}"
        )
    fields = [key for key in stored_fields if key != "task"]
    if policy.at_task_end and stores_each_step and fields and not annotates:
        raise UserError(
            f"buffer={name}: is offered examples at a task's end, and the method stores "
            f"{', '.join(fields)} of each at its step; choose a policy that is offered them at "
            "each step, as buffer=reservoir"
        )
