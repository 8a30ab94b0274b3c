"""Stored logits that are replaced by later ones (X-DER): bounded, and how often."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Method, Task
from perdure.models.memory import Memory
from perdure.models.options import at_least
from perdure.models.task_heads import TaskHeads
from perdure.models.teacher import frozen


def transplant(old: Tensor, new: Tensor, y: Tensor, columns: Tensor, gamma: float) -> Tensor:
    """`old` with `new` in `columns`, scaled where it would outdo the label's logit.

    Boschini et al. 2022: where the largest new logit u exceeds that of the label in `old`, z_y, all
    of the example's new ones are multiplied by γ z_y / u. A z_y below 0, of which the factor would
    turn signs, counts as 0.

    Args:
        old: float [B, C].
        new: float [B, C].
        y: labels, int64 [B].
        columns: bool [C].
        gamma: γ.
    """
    own = old.gather(1, y[:, None]).clamp(min=0)
    largest = new.masked_fill(~columns, -torch.inf).amax(1, keepdim=True)
    factor = torch.where(largest > own, gamma * own / largest, 1.0)
    return torch.where(columns, factor * new, old)


class Transplanting(Method):
    """Keeps in the memory, of classes that come after an example, the network's logits of now.

    Those of an example that was replayed are replaced with probability 1 / k at the k-th step of a
    task that draws it, and those of the whole memory at each task's end. A new example's logits of
    past classes are bounded by its label's likewise. A subclass defines `loss`, which returns
    `rewritten`.

    Args:
        gamma: γ of `transplant`.

    Attributes:
        slices: whose scores are whose.
    """

    stored_fields = ("logits", "updates")
    store_at = "task"
    joint = False
    scenarios = ("class-incremental",)
    needs_boundaries = True
    needs_n_tasks = True
    needs_n_classes = True

    def __init__(self, backbone: Backbone, gamma: float) -> None:
        super().__init__(backbone)
        at_least(0, gamma=gamma)
        if backbone.grows:
            raise UserError("head.growing=true: has no scores of later classes; must be false")
        self.gamma = gamma
        self.slices = TaskHeads(backbone.n_classes)

    def grow(self, task: Task) -> None:
        self.slices.grow(task)

    def rewritten(self, *draws: tuple[Batch, Tensor]) -> dict[int, dict[str, Tensor]]:
        """`StepOutput.rewrite` for replay draws, each with the scores z of its examples."""
        # The same number for an example in several draws, so that none undoes another.
        start = torch.rand(1, dtype=torch.float64)
        fields = {}
        for number, (draw, z) in enumerate(draws):
            k = draw["updates"] + 1
            index = draw["index"].double()
            chosen = (start.to(z.device, non_blocking=True) + 0.6180339887 * index) % 1 * k < 1
            logits = torch.where(chosen[:, None], self._grafted(draw, z), draw["logits"])
            fields[number] = {"logits": logits, "updates": k}
        return fields

    def _grafted(self, stored: Batch, z: Tensor) -> Tensor:
        new = ~self.slices.is_past
        return transplant(stored["logits"], z.detach().float(), stored.y, new, self.gamma)

    def after_task(self, data: Data, memory: Memory) -> None:
        for batch in memory.batches(1000):
            with frozen(self.backbone):
                logits = self._grafted(batch, self(batch.x))
            none = torch.zeros_like(batch["updates"])
            memory.rewrite(batch["index"], {"logits": logits, "updates": none})

    def annotate(self, batch: Batch) -> dict[str, Tensor]:
        z = self(batch.x)
        logits = transplant(z, z, batch.y, self.slices.is_past, self.gamma)
        return {"logits": logits, "updates": z.new_zeros(len(z))}
