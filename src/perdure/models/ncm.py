"""NCM: nearest class mean on frozen features (SimpleCIL with cosines)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from perdure.backbones import heads
from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, StepOutput
from perdure.models.frozen_features import FrozenFeatures


class NCM(FrozenFeatures):
    """The class whose mean feature is the closest, over all examples of the class.

    Mensink et al. 2013, "Distance-based image classification: generalizing to new classes at
    near-zero cost", section 3 (Euclidean); Zhou et al. 2024, "Revisiting class-incremental learning
    with pre-trained models", SimpleCIL, eqs. 2 and 3 (cosine); Janson et al. 2022, "A simple
    baseline that questions the use of pretrained-models in continual learning". Means are
    μ_c = Σ f(x) / n_c over the examples of class c, without augmentation.

    Sums and counts grow with every batch (online, in `after_step`), each example once: later epochs
    of a task are skipped. A class of several tasks has the mean of all its examples; the order of
    examples and tasks changes rounding only. Without pretrained weights the network is random,
    unless `base_epochs` trains it on the first task.

    Args:
        metric: "cosine", or "euclidean" for the negative squared distance.
        base_epochs: epochs of ordinary training on the first task, before the means are taken.
    """

    def __init__(
        self, backbone: Backbone, metric: Literal["cosine", "euclidean"], base_epochs: int
    ) -> None:
        super().__init__(backbone, base_epochs)
        if metric not in ("cosine", "euclidean"):
            raise UserError(f"model.metric={metric}: must be cosine or euclidean")
        self.means = heads.NCM(backbone.n_features, backbone.n_classes, metric)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if self.in_base_phase or self.task.epoch:
            return self.base_loss(batch)
        return StepOutput(None, rows={"f": self.features(batch), "y": batch.y})

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        if rows:
            self.means.update(rows["f"], rows["y"])

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        scores: Tensor = self.means(self.backbone.features(x))
        return scores
