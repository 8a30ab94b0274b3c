"""Replay draws: which samples of the memory (buffer) a method's loss takes at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol


@dataclass(frozen=True)
class Replay:
    """A replay draw, without replacement, as part of a method's `replays`.

    Its batch has the slots of its examples as `batch["index"]`, int64 [n], for `memory.rewrite`.

    Attributes:
        size: examples to draw, all where there are fewer; None is `buffer.batch_size`, "all" the
            whole memory in the order of its slots.
        by: "uniform" is one draw from the whole memory. "task" is one draw for each earlier task of
            which the memory holds examples, in the order of the tasks, each of `size` examples of
            that task; there may be none. "class" is one for each class of which it holds examples,
            of the current task's too, in the order of the labels.
    """

    size: int | Literal["all"] | None = None
    by: Literal["uniform", "task", "class"] = "uniform"

    def __post_init__(self) -> None:
        if self.size not in (None, "all") and not (isinstance(self.size, int) and self.size > 0):
            raise ValueError(f"a replay draw takes 1 example or more, or all, not {self.size!r}")
        if self.by not in ("uniform", "task", "class"):
            raise ValueError(f"a replay draw is uniform, by task or by class, not by {self.by!r}")


class Replaying(Protocol):
    """What the class of a method, or the method, says of its memory."""

    replays: int | tuple[Replay, ...]
    keeps_exemplars: ClassVar[bool]


def method_draws(method: Replaying | type[Replaying]) -> tuple[Replay, ...]:
    """The draws that a method declares; a number n stands for n uniform ones."""
    given = method.replays
    return (Replay(),) * given if isinstance(given, int) else given


def draws_by_group(method: Replaying | type[Replaying]) -> bool:
    """Whether a method draws from the examples of one task or class, of which there are many."""
    return any(draw.by != "uniform" for draw in method_draws(method))


def uses_buffer(method: Replaying | type[Replaying]) -> bool:
    """Whether a method has a buffer: it replays from it, or uses the examples otherwise."""
    return bool(method.replays) or method.keeps_exemplars
