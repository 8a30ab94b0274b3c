"""Methods whose head has directions and grows (LUCIR, PODNet): how classes begin and stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Cosine, Proxy
from perdure.datasets.batch import Batch
from perdure.models.base import Data, Task
from perdure.models.options import at_least
from perdure.models.phase import Phase
from perdure.models.teacher import Taught, frozen


class GrowingDirections(Taught):
    """Weights of new classes start at features of their examples, those of old ones stay fixed.

    A task is trained on its examples and the exemplars. After storing, an optional phase trains the
    whole head alone on the exemplars, which are balanced. A subclass defines `first_directions`.

    Args:
        finetune_epochs: of the balanced phase; 0 leaves it out.
        finetune_lr: its learning rate.
    """

    def __init__(self, backbone: Backbone, finetune_epochs: int, finetune_lr: float) -> None:
        super().__init__(backbone)
        at_least(0, finetune_epochs=finetune_epochs, finetune_lr=finetune_lr)
        self.finetune_epochs = finetune_epochs
        self.finetune_lr = finetune_lr

    @property
    def head(self) -> Cosine | Proxy:
        assert isinstance(self.backbone.head, Cosine | Proxy)
        return self.backbone.head

    def first_directions(self, data: Data) -> Tensor:
        """Of `self.new`, float [classes, …, n_features], as `head.imprint` takes them.

        In evaluation mode and without gradients; `data` has the task's examples.
        """
        raise NotImplementedError

    def fixed_features(self, batch: Batch) -> Tensor:
        """What the balanced phase trains the head on, [B, n_features]."""
        with frozen(self.backbone):
            return self.backbone.features(batch.x)

    def grow(self, task: Task) -> None:
        super().grow(task)
        self.new = task.classes - task.past

    def phases(self, task: Task) -> Sequence[Phase]:
        epochs = self.finetune_epochs if task.index else 0
        options = {"lr": self.finetune_lr}
        return (
            Phase(data="task+memory"),
            Phase(
                "balanced", "memory", epochs, None, options, class_balanced=True, after_storing=True
            ),
        )

    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        return [{"params": self.trainable() if phase.is_main else list(self.head.parameters())}]

    def before_task(self, data: Data) -> None:
        super().before_task(data)
        if self.task.past and self.new:
            with frozen(self.backbone):
                self.head.imprint(self.new, self.first_directions(data))

    def after_backward(self, references: Tensor | None) -> None:
        if self.task.phase == "main":
            for block in self.head.blocks[: -1 if self.new else None]:
                fixed: nn.Parameter = block.weight  # type: ignore[assignment]
                fixed.grad = None  # so that no momentum or weight decay moves it either
