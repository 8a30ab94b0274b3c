"""Independent networks, one a task (single-task learning): no forgetting, and no transfer."""

from __future__ import annotations

from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.errors import UserError
from perdure.models.base import Data, Task
from perdure.models.sgd import FineTuning
from perdure.models.teacher import Teacher


class Independent(FineTuning):
    """Train a network of its own for each task, from the same first weights.

    The baseline of task-incremental learning (Lopez-Paz & Ranzato 2017, sec. 5.3): it must be told
    the task of an example, and grows by a whole network a task. A task that has not begun is
    answered by the untrained network.
    """

    joint = False
    loss_scope = "current"
    needs_task_id = True
    needs_boundaries = True
    needs_full_parameters = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        if backbone.grows:
            raise UserError(
                "head.growing=true: independent has a network a task, each with all outputs; must "
                "be false"
            )
        self.first = Teacher(backbone)
        self.past = nn.ModuleList()

    def grow(self, task: Task) -> None:
        if task.index:
            self.past.append(Teacher(self.backbone))

    def before_task(self, data: Data) -> None:
        if self.task.index:
            before = self.past[self.task.index - 1]
            assert isinstance(before, Teacher)
            before.learn(self.backbone)
            self.backbone.load_state_dict(self.first.network.state_dict())

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        if task is None or task == self.task.index:
            return self(x)
        network = self.past[task] if task < self.task.index else self.first
        scores: Tensor = network(x)
        return scores

    def frozen_state(self) -> dict[str, Tensor]:
        return {f"past.{name}": value for name, value in self.past.state_dict().items()}
