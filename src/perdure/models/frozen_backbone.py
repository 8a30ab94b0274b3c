"""A frozen backbone (linear probe): the head alone is trained, on random or pretrained features."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.models.base import Task
from perdure.models.features_state import features_state
from perdure.models.sgd import FineTuning


class FrozenBackbone(FineTuning):
    """Fine-tuning of the head on features that stay as they are.

    The baseline that shows how much of an accuracy is due to the features (as in Janson et al.
    2022, "A simple baseline that questions the use of pretrained-models in continual learning",
    there with class means). Batch norm keeps its statistics.

    Args:
        train_first: whether the whole network is trained on the first task, and frozen then; else
            it stays as it was made, or as its pretrained weights are.
    """

    def __init__(self, backbone: Backbone, train_first: bool) -> None:
        super().__init__(backbone)
        self.train_first = train_first
        self._is_frozen = False
        self._freeze_if(not train_first)

    def grow(self, task: Task) -> None:
        self._freeze_if(task.index > 0)

    def _freeze_if(self, frozen: bool) -> None:
        if frozen:
            self._is_frozen = True
            self.backbone.requires_grad_(False)
            self.backbone.head.requires_grad_(True)

    def train(self, mode: bool = True) -> FrozenBackbone:
        super().train(mode)
        if self._is_frozen:
            self.backbone.eval()
        return self

    def frozen_state(self) -> dict[str, Tensor]:
        return features_state(self.backbone)
