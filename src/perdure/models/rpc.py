"""RPC: class-incremental learning with pre-allocated fixed classifiers (regular polytope)."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Simplex
from perdure.errors import UserError
from perdure.models.er import ER


class RPC(ER):
    """Replay with a classifier that is fixed from the start, of all classes, later ones included.

    Pernici et al. 2020, "Class-incremental learning with pre-allocated fixed classifiers", sec. 3:
    a learned layer maps the features to K − 1 numbers u, and the scores are ⟨s_c, u⟩ with s_1 … s_K
    the vertices of a regular simplex (`head=simplex`, the default here). No weight of a class moves
    when another one is learned. Each batch is learned together with one from the memory, which has
    as many examples of each class (`buffer=random`, the default here) and is filled when a task
    ends: none of the current task is replayed. The cross-entropy is over all classes of the
    benchmark, as in the paper.
    """

    store_at = "task"
    needs_boundaries = True
    needs_n_classes = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        if not isinstance(backbone.head, Simplex):
            raise UserError("head: RPC's classifier is fixed; must be head=simplex")

    def frozen_state(self) -> dict[str, Tensor]:
        assert isinstance(self.backbone.head, Simplex)
        return {"vertices": self.backbone.head.vertices}
