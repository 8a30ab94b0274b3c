"""PackNet: the weights of one network divided among tasks by pruning (parameter isolation)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.loss_scope import scope_of
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.memory import Memory
from perdure.models.owners import FREE, Owners
from perdure.models.phase import MAIN, Phase


class PackNet(Method):
    """Each task trains the free weights, keeps the largest of them, and frees the others again.

    Mallya & Lazebnik 2018, "PackNet: adding multiple tasks to a single network by iterative
    pruning", sec. 3. The free weights are trained, those of earlier tasks being used as they are;
    then the part `prune` of a layer's free weights, those with the smallest |w|, is set to 0, and
    the others, now the task's own, are trained on alone. At test a task has its own weights and
    those of earlier tasks. Biases, batch norm and its statistics are the first task's. There is
    a head a task: the rows of its classes, which are not pruned.

    What may not change is put back after each step: with masked gradients alone, momentum and
    weight decay would move it. So old logits stay, to the bit. Freed weights start the next task
    from 0. Deviation: nothing is pretrained, and the first task is pruned like the others.

    Args:
        prune: part of a layer's free weights that is freed, above 0 and below 1.
        retrain_epochs: passes over the task's examples after pruning, at least 1.
    """

    joint = False
    scenarios = ("class-incremental",)
    loss_scope = "current"
    needs_full_parameters = True
    needs_task_id = True
    needs_boundaries = True

    def __init__(self, backbone: Backbone, prune: float, retrain_epochs: int) -> None:
        super().__init__(backbone)
        if not 0 < prune < 1:
            raise UserError(f"model.prune={prune}: must be above 0 and below 1")
        if not isinstance(retrain_epochs, int) or retrain_epochs < 1:
            raise UserError(f"model.retrain_epochs={retrain_epochs}: must be an integer, 1 or more")
        self.prune = prune
        self.retrain_epochs = retrain_epochs
        self.owners = Owners(backbone)
        self._holds_statistics = False

    def grow(self, task: Task) -> None:
        self.owners.own(task.classes)
        for p in self.owners.shared:
            p.requires_grad_(task.index == 0)
        self._holds_statistics = task.index > 0

    def train(self, mode: bool = True) -> PackNet:
        super().train(mode)
        for module in self.modules() if self._holds_statistics else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def phases(self, task: Task) -> Sequence[Phase]:
        return (MAIN, Phase("retrain", epochs=self.retrain_epochs))

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        if not phase.is_main:
            self.owners.prune(self.prune, self.task.index)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if batch.scope != scope_of(self.task.classes):
            raise UserError("training.loss_scope: packnet has a head a task; must be null, current")
        return batch.cross_entropy(self(batch.x))

    def after_backward(self, references: Tensor | None) -> None:
        self._before = self.owners.snapshot()

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        in_main = self.task.phase == MAIN.name
        self.owners.put_back(self._before, FREE if in_main else self.task.index)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """With the weights that `task` was trained with; one that is not over has all of them."""
        if task is None or task >= self.task.index:
            return self(x)
        return self.owners.scores(x, task)

    def frozen_state(self) -> dict[str, Tensor]:
        return self.owners.frozen(self.task.index + 1, self.task.seen)
