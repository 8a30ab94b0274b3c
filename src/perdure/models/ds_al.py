"""DS-AL: dual-stream analytic learning, ACIL and a second stream that fits what it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.acil import ACIL
from perdure.models.base import Data, Loss
from perdure.models.frozen_features import RecursiveRidge
from perdure.models.memory import Memory
from perdure.models.options import above, at_least


class DSAL(ACIL):
    """ACIL's ridge regression, plus another activation's on its residuals.

    Zhuang et al. 2024, "DS-AL: a dual-stream analytic learning for exemplar-free class-incremental
    learning", sections 3.2 to 3.4. The main stream is ACIL. When it has taken in a task, the
    compensation stream H_c = tanh(f R), of the same random layer, is fitted recursively to the
    residual Y_c = Y − H W in which the columns of earlier tasks' classes are set to 0 (previous
    label cleansing). Scores are H W + C H_c W_c. Both streams are updated at a task's end.

    Deviations: as in ACIL.

    Args:
        projection: M, columns of the random layer.
        gamma: γ, the ridge of the main stream.
        gamma_compensation: γ of the second one.
        compensation: C, how much of the second one the scores have; 0 is ACIL.
        base_epochs: epochs of ordinary training on the first task, before the first fit.
    """

    scenarios = ("class-incremental",)

    def __init__(
        self,
        backbone: Backbone,
        projection: int,
        gamma: float,
        gamma_compensation: float,
        compensation: float,
        base_epochs: int,
    ) -> None:
        super().__init__(backbone, projection, gamma, base_epochs)
        above(0, gamma_compensation=gamma_compensation)
        at_least(0, compensation=compensation)
        self.compensation = compensation
        self.second = RecursiveRidge(projection, backbone.n_classes, gamma_compensation)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return self.base_loss(batch)

    def expand_second(self, f: Tensor) -> Tensor:
        """Features [B, d] -> H_c, [B, M]."""
        return torch.tanh(f @ self.R)

    def after_task(self, data: Data, memory: Memory) -> None:
        super().after_task(data, memory)
        for f, y in self.features_of(data):
            residual = self.one_hot(y) - self.expand(f).double() @ self.main.W
            residual[:, list(self.task.past)] = 0.0
            self.second.update(self.expand_second(f).double(), residual)

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        f = self.backbone.features(x)
        main = self.expand(f) @ self.main.W.to(f.dtype)
        second = self.expand_second(f) @ self.second.W.to(f.dtype)
        return self.of_seen(main + self.compensation * second)
