"""The contract of a continual-learning method (strategy, algorithm): the mathematics of one paper.

The trainer owns the loop, the optimizer, mixed precision, distribution and time; a method computes
the loss of a batch. Its state lives in parameters, registered buffers or `get_extra_state`, so that
a checkpoint holds it with no further code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from perdure.backbones.base import Backbone, treats_rows_alike
from perdure.datasets.batch import Batch, join
from perdure.datasets.classes import Classes
from perdure.models.memory import Memory


@dataclass(slots=True)
class StepOutput:
    """What `loss` returns where a scalar is not enough.

    Attributes:
        loss: [], or None to take no optimizer step on this batch; all parts of a batch must agree.
        remember: the `stored_fields` of each example, {name: [B, …]}.
    """

    loss: Tensor | None
    remember: dict[str, Tensor] = field(default_factory=dict)


Loss = Tensor | StepOutput
Data = Callable[[int], Iterable[Batch]]
"""`data(n)` yields the training examples of a task, n at a time, without augmentation."""


@dataclass(frozen=True)
class Task:
    """What a method may know of the current task.

    Attributes:
        index: number of the task, from 0.
        classes: labels that occur in it.
        seen: labels that occur in it or in an earlier task.
    """

    index: int
    classes: Classes
    seen: Classes


class Method(nn.Module):
    """A way to train `backbone` on one task after another.

    Class attributes declare what the trainer must provide:
        replays: independent draws from the buffer that `loss` takes; 0 needs no buffer.
        stored_fields: what `loss` returns to be stored with each example, besides bytes and label.
        store_at: when examples are offered to the buffer: each "step", or at the end of a "task".
        joint: whether training on all tasks at once makes sense.
        scenarios: kinds of scenario it is defined for.
        additive: whether the loss is a mean over examples, so that a batch can be split.
        needs_full_parameters: whether it computes with the parameters or their gradients
            themselves, which then cannot be sharded over processes (`training.parallel=fsdp`).
        needs_task_id: whether `predict` must be told the task's index; there is no class-IL then.
    """

    replays: ClassVar[int] = 0
    stored_fields: ClassVar[tuple[str, ...]] = ()
    store_at: ClassVar[Literal["step", "task"]] = "step"
    joint: ClassVar[bool] = True
    scenarios: ClassVar[tuple[str, ...]] = ("class-incremental", "domain-incremental")
    additive: ClassVar[bool] = True
    needs_full_parameters: ClassVar[bool] = False
    needs_task_id: ClassVar[bool] = False

    task: Task
    """The current task; the trainer sets it."""

    one_forward: bool = True
    """Whether `logits` may join batches in one forward pass; the trainer sets it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def __call__(self, x: Tensor) -> Tensor:
        """`forward`: hooks belong to the backbone, so that a step need not look for them here."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of inputs [B, C, H, W]."""
        logits: Tensor = self.backbone(x)
        return logits

    @property
    def rows_are_independent(self) -> bool:
        """Whether the backbone, and each network of the method's own, treats every example alike.

        Then an example's logits do not depend on what it is joined with.
        """
        own = (part for part in self.children() if part is not self.backbone)
        return self.backbone.rows_are_independent and all(map(treats_rows_alike, own))

    def logits(self, *batches: Batch) -> tuple[Tensor, ...]:
        """Logits of several batches, [B, classes] each; of an empty one, [0, classes].

        They come from one forward pass, which costs much less than one each, where the network
        treats every example alike whatever it is joined with (`rows_are_independent`) and
        `training.one_forward` allows it: then they are those of separate passes up to rounding.
        """
        found = [batch for batch in batches if batch]
        if self.one_forward:
            each = self(join(found).x).split([len(batch) for batch in found])
        else:
            each = [self(batch.x) for batch in found]
        logits = iter(each)
        return tuple(next(logits) if batch else each[0][:0] for batch in batches)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        """The loss on `batch` and `replays` draws, empty (falsy) while the buffer is empty."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """A term of the parameters alone, added once a step; its gradient comes last."""
        return None

    def reference(self, *replay: Batch) -> Tensor | None:
        """A second loss, whose gradient `after_backward` gets (A-GEM's constraint)."""
        return None

    def predict(self, x: Tensor) -> Tensor:
        """Class scores [B, classes] at evaluation."""
        return self.forward(x)

    def grow(self, task: Task) -> None:
        """Append the structure that `task` needs: modules, parameters, buffers, a teacher.

        A function of the configuration and `task` alone, since a resumed run calls it again before
        the state is loaded; parameters are appended (a block a task), never resized. Called first
        of all, before there is an optimizer for the task; new parameters join a kept one.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, as torch takes them: `params`, and options of its own.

        Options that a group lacks are those of the configuration.
        """
        return [{"params": self.trainable()}]

    def before_task(self, data: Data) -> None:
        """Called once when `self.task` starts; `data` are its training examples."""

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        """The `stored_fields` of examples that are offered at a task's end, {name: [B, …]}.

        In evaluation mode and without gradients; of `store_at = "task"` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} stores fields, and defines no annotate")

    def after_backward(self, reference: list[Tensor] | None) -> None:
        """Called when the parameters' `.grad` hold the loss's gradient; may change them."""

    def after_step(self) -> None:
        """Called when the optimizer has moved the parameters."""

    def after_task(self, data: Data, memory: Memory) -> None:
        """Called once when `self.task` is trained, before its examples are offered to the buffer.

        Args:
            data: the task's training examples.
            memory: what the buffer holds; `memory.rewrite` changes stored fields.
        """

    @classmethod
    def defines(cls, hook: str) -> bool:
        """Whether this method has a `hook` of its own, not the one here that does nothing."""
        return getattr(cls, hook) is not getattr(Method, hook)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for p in self.parameters() if p.requires_grad]
