"""LwF-MC: learning without forgetting with one sigmoid a class (iCaRL's baseline)."""

from __future__ import annotations

import torch.nn.functional as F

from perdure.datasets.batch import Batch
from perdure.models.base import Loss
from perdure.models.distillation import sigmoid_targets
from perdure.models.teacher import Distilled


class LwFMC(Distilled):
    """iCaRL without exemplars: distillation on the new examples alone, and the network's own head.

    Rebuffi et al. 2017, "iCaRL: incremental classifier and representation learning", sec. 4: the
    baseline LwF.MC, "learning without forgetting" (Li & Hoiem 2016) for multi-class use. The loss
    is that of Alg. 3, binary cross-entropy of a sigmoid g_y for each class seen, on the task's
    examples: the target is the label for the new classes, and the sigmoid of the network before the
    task for the old ones. The largest output is the prediction.

    Deviation: as in iCaRL's code the loss is the mean over the outputs, not their sum.
    """

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        z = self(batch.x)
        target = batch.in_scope(sigmoid_targets(z, batch, self.old, self.task.past))
        bce = F.binary_cross_entropy_with_logits(batch.in_scope(z), target, reduction="none")
        return batch.mean(bce.mean(1))
