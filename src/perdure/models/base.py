"""The contract of a continual-learning method (strategy, algorithm): the mathematics of one paper.

The trainer owns the loop, the optimizer, mixed precision, distribution and time; a method computes
the loss of a batch. Its state lives in parameters, registered buffers or `get_extra_state`, so that
a checkpoint holds it with no further code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from perdure.backbones.base import Backbone, treats_rows_alike
from perdure.datasets.batch import Batch, join
from perdure.datasets.classes import Classes
from perdure.models.memory import Memory
from perdure.models.phase import MAIN, Phase
from perdure.models.replay import Replay


@dataclass(slots=True)
class StepOutput:
    """What `loss` returns where a scalar is not enough.

    Attributes:
        loss: [], or None to take no optimizer step on this batch; all parts of a batch must agree.
        remember: the `stored_fields` of each example, {name: [B, …]}.
        rows: what `after_step` gets of each example of the batch, {name: [B, …]}: of the global
            batch, whoever computed it.
        sums: what `after_step` gets summed over the parts of the batch, {name: […]}.
        rewrite: new values of stored fields of replayed examples, by the number of the draw,
            {0: {name: [B', …]}}; the last one that is given for an example stays.
        log: values to record, {name: []}, each a mean over the global batch as `Batch.mean` makes
            it; recorders get the mean over the steps of `training.log_every`.
    """

    loss: Tensor | None
    remember: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    rewrite: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    log: dict[str, Tensor] = field(default_factory=dict)


Loss = Tensor | StepOutput
Data = Callable[[int], Iterable[Batch]]
"""`data(n)` yields the training examples of a task, n at a time, without augmentation."""


_DERIVED = Classes()


@dataclass(slots=True)
class Task:
    """What a method may know of the current task.

    Attributes:
        index: number of the task, from 0.
        classes: labels that occur in it.
        seen: labels that occur in it or in an earlier task.
        phase: name of the current phase.
        epoch: number of the epoch within the phase, from 0.
        epochs: of the phase.
        step: number of the step within the epoch, from 0.
        steps_per_epoch: of a whole epoch of the phase.
        lr: learning rate of the optimizer's first group.
        past: labels that occur in an earlier task; by default those seen that the task has not.
        n_tasks: how many tasks there are, where the method `needs_n_tasks`; None elsewhere.
    """

    index: int
    classes: Classes
    seen: Classes
    phase: str = MAIN.name
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    lr: float = 0.0
    past: Classes = field(default_factory=lambda: _DERIVED)
    n_tasks: int | None = None

    def __post_init__(self) -> None:
        if self.past is _DERIVED:
            self.past = Classes.of(self.seen) - self.classes


class Method(nn.Module):
    """A way to train `backbone` on one task after another.

    Class attributes declare what the trainer must provide:
        replays: draws from the buffer that `loss` takes: how many independent ones of
            `buffer.batch_size`, or a tuple of `Replay`; 0 draws nothing. Where its size
            follows from a hyperparameter, `__init__` sets it anew.
        keeps_exemplars: whether it has a buffer though it draws nothing from it at a step.
        keeps_all_data: whether it trains on the examples of all tasks so far (a phase on
            "all-seen"): it is a bound on what continual learning reaches.
        stored_fields: what `loss` returns to be stored with each example, besides bytes and label.
        store_at: when examples are offered to the buffer: each "step", or at the end of a "task".
        joint: whether training on all tasks at once makes sense.
        scenarios: kinds of scenario it is defined for.
        additive: whether the loss is a mean over examples, so that a batch can be split.
        needs_full_parameters: whether it computes with the parameters or their gradients
            themselves, which then cannot be sharded over processes (`training.parallel=fsdp`).
        loss_scope: over which classes cross-entropy is taken where `training.loss_scope` is null:
            "full", all of the benchmark; "seen", those so far; "current", the task's own.
        views: augmented views of each example that `batch.view(k)` gives.
        needs_task_id: whether `predict` must know the task of the examples; class-IL accuracy is
            then undefined.
        needs_boundaries: whether it must be told where one task ends and the next begins.
        needs_n_tasks: whether it must be told at the start how many tasks there are.
        needs_n_classes: whether it reads `backbone.n_classes`, how many classes there will be.
        evaluable: whether it can be measured "anytime", or at a "task end" alone.
        plain_sgd: whether it moves the weights itself, which momentum and weight decay disturb.
        base: name of the method that it is the same as, to the bit, with the hyperparameters of
            `zero_strength`, on a network without batch norm and with one loss scope for both.
        zero_strength: these hyperparameters, as ("alpha=0", …).
    """

    replays: int | tuple[Replay, ...] = 0
    keeps_exemplars: ClassVar[bool] = False
    keeps_all_data: ClassVar[bool] = False
    stored_fields: ClassVar[tuple[str, ...]] = ()
    store_at: ClassVar[Literal["step", "task"]] = "step"
    joint: ClassVar[bool] = True
    scenarios: ClassVar[tuple[str, ...]] = ("class-incremental", "domain-incremental")
    additive: ClassVar[bool] = True
    needs_full_parameters: ClassVar[bool] = False
    loss_scope: ClassVar[Literal["full", "seen", "current"]] = "full"
    views: ClassVar[int] = 1
    needs_task_id: ClassVar[bool] = False
    needs_boundaries: ClassVar[bool] = False
    needs_n_tasks: ClassVar[bool] = False
    needs_n_classes: ClassVar[bool] = False
    evaluable: ClassVar[Literal["anytime", "task end"]] = "anytime"
    plain_sgd: ClassVar[bool] = False
    base: ClassVar[str | None] = None
    zero_strength: ClassVar[tuple[str, ...]] = ()

    task: Task
    """The current task; the trainer sets it."""

    update: int = 0
    """Number of the optimizer step on the current batch, from 0; the trainer sets it."""

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

    def references(self, *replay: Batch) -> Iterable[Tensor]:
        """Further losses, [] each, whose gradients `after_backward` gets (A-GEM's constraint).

        Each is differentiated before the next is asked for, so that a generator keeps one graph.
        """
        return ()

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Class scores [B, classes] at evaluation; `task` is given where `needs_task_id`."""
        return self.forward(x)

    def grow(self, task: Task) -> None:
        """Append the structure that `task` needs: modules, parameters, buffers, a teacher.

        A function of the configuration and `task` alone, since a resumed run calls it again before
        the state is loaded; parameters are appended (a block a task), never resized. Called first
        of all, before there is an optimizer for the task; new parameters join a kept one.
        """

    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, as torch takes them: `params`, and options of its own.

        Options that a group lacks are those of the configuration.
        """
        return [{"params": self.trainable()}]

    def phases(self, task: Task) -> Sequence[Phase]:
        """The parts of training on `task`, in order; a function of the configuration and `task`."""
        return (MAIN,)

    def before_task(self, data: Data) -> None:
        """Called once when `self.task` starts; `data` are its training examples."""

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        """Called once when `phase` starts, with its own optimizer in place.

        Args:
            phase: one of `phases`; one without examples is skipped, and this with it.
            data: the phase's training examples.
            memory: what the buffer holds.
        """

    def updates(self, batch: Batch) -> int:
        """How many optimizer steps are taken on this batch, each with replay of its own.

        `self.update` counts them. By default `training.updates` of them.
        """
        return 1

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        """The `stored_fields` of examples that are offered at a task's end, {name: [B, …]}.

        In evaluation mode and without gradients; of `store_at = "task"` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} stores fields, and defines no annotate")

    def after_backward(self, references: Tensor | None) -> None:
        """Called when the parameters' `.grad` hold the loss's gradient; may change them.

        Args:
            references: the gradients of `references`, [k, P] over the P numbers of `trainable()`
                one after another; None where there are none.
        """

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        """Called when the optimizer has moved the parameters, or a loss of None left them.

        Args:
            rows: those of the global batch that `loss` gave, {name: [B, …]}.
            sums: those that `loss` gave, summed over the parts of the batch.
        """

    def after_batch(self) -> None:
        """Called once a batch, after its last optimizer step (MER's second interpolation)."""

    def after_task(self, data: Data, memory: Memory) -> None:
        """Called once when `self.task` is trained, before its examples are offered to the buffer.

        Args:
            data: the task's training examples.
            memory: what the buffer holds; `memory.rewrite` changes stored fields.
        """

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        """Derive what `predict` needs, such as class means: without gradients, in evaluation mode.

        It may set attributes that no state dict holds, and change nothing else: evaluating more
        or less often must not change training.

        Args:
            memory: what the buffer holds; after a task's end its examples too.
            data: training examples of the current task.
        """

    def frozen_state(self) -> dict[str, Tensor]:
        """What no later training changes, by name; asked when a task has ended.

        What it names then keeps its bits to the end of the run. By default nothing.
        """
        return {}

    @property
    def lr(self) -> float:
        """The learning rate of the optimizer's first group."""
        return self.task.lr

    @classmethod
    def defines(cls, hook: str) -> bool:
        """Whether this method has a `hook` of its own, not the one here that does nothing."""
        return getattr(cls, hook) is not getattr(Method, hook)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for p in self.parameters() if p.requires_grad]
