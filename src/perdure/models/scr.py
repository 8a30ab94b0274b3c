"""SCR: supervised contrastive replay, and prediction by the nearest class mean (NCM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.views import strong_view
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, StepOutput
from perdure.models.contrastive import supervised_contrastive
from perdure.models.memory import Memory
from perdure.models.replay import Replay


class SCR(Method):
    """Learn features by contrast of new and replayed examples; classify by the memory's means.

    Mai et al. 2021, "Supervised contrastive replay: revisiting the nearest class mean classifier in
    online class-incremental continual learning": the supervised contrastive loss over two views of
    the new and the replayed examples, z = Proj(f(x)) / ‖·‖ with one hidden layer; an example gets
    the class with the closest mean of f(x) / ‖·‖ over the memory. As in the authors' code, no step
    is taken while the memory is empty, the first view is the batch as the benchmark gives it, and
    means are normalized. The network's own head is not used, and does not learn.

    Args:
        temperature: τ.
        projection: numbers that the projection head gives.
        replayed: examples drawn from the memory at each step.
        crop: smallest part of an image's area that the second view shows.
        flip: whether the second view may be mirrored.
    """

    replays = (Replay(),)
    additive = False
    needs_full_parameters = True
    needs_n_classes = True

    def __init__(
        self,
        backbone: Backbone,
        temperature: float,
        projection: int,
        replayed: int,
        crop: float,
        flip: bool,
    ) -> None:
        super().__init__(backbone)
        if not temperature > 0:
            raise UserError(f"model.temperature={temperature}: divides; must be above 0")
        for key, n in (("projection", projection), ("replayed", replayed)):
            if n < 1:
                raise UserError(f"model.{key}={n}: is a size; must be 1 or more")
        if not 0 < crop <= 1:
            raise UserError(f"model.crop={crop}: is a part of an area; must be above 0, at most 1")
        self.temperature = temperature
        self.crop = crop
        self.flip = flip
        self.replays = (Replay(replayed),)
        backbone.head.requires_grad_(False)
        n = backbone.n_features
        self.projection = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, projection))
        self.means: Tensor | None = None

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        (past,) = replay
        if not past:
            return StepOutput(None)
        both = batch + past
        other = both.transform(strong_view(both.raw, self.crop, self.flip), None)
        views = [torch.cat([both.x, other])] if self.one_forward else [both.x, other]
        z = torch.cat([F.normalize(self.projection(self.backbone.features(x))) for x in views])
        return supervised_contrastive(z, both.y.repeat(2), self.temperature)

    def before_evaluation(self, memory: Memory, data: Data) -> None:
        parts = [
            F.one_hot(batch.y, self.backbone.n_classes).T.double()
            @ self.unit_features(batch.x).double()
            for batch in memory.batches(500)
        ]
        self.means = F.normalize(torch.stack(parts).sum(0)).float() if parts else None

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """Cosine to the class means; classes without examples in the memory come last."""
        if self.means is None:
            return x.new_zeros(len(x), self.backbone.n_classes)
        absent = (self.means == 0).all(1)
        return (self.unit_features(x) @ self.means.T).masked_fill(absent, -2)

    def unit_features(self, x: Tensor) -> Tensor:
        """f(x) / ‖f(x)‖, [B, n_features]."""
        return F.normalize(self.backbone.features(x))
