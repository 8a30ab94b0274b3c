"""Training from scratch at each task on the data of all tasks so far: an upper bound."""

from __future__ import annotations

from perdure.backbones.base import Backbone
from perdure.models.base import Data
from perdure.models.cumulative import Cumulative
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.models.teacher import Teacher


class FromScratch(Cumulative):
    """A network with its first weights again at each task, trained on every task so far.

    The reference of intransigence (Chaudhry et al. 2018, "Riemannian walk for incremental
    learning", eq. 12): what the network learns of a task when nothing was learned before it.
    """

    needs_full_parameters = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.first = Teacher(backbone)

    def before_phase(self, phase: Phase, data: Data, memory: Memory) -> None:
        self.backbone.load_state_dict(self.first.network.state_dict())
