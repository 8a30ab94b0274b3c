"""GSS: gradient-based sample selection for replay."""

from __future__ import annotations

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.er import ER
from perdure.models.options import at_least


class GSS(ER):
    """Replay from a memory of examples whose gradients point in different directions.

    Aljundi et al. 2019, "Gradient based sample selection for online continual learning", Alg. 2:
    each batch is learned together with one drawn from the memory, `repeats` times, and is then
    offered to it. Which examples stay is the buffer's matter (`buffer=gss`, the default here).

    Deviation: draws are independent, where the authors' code goes through the shuffled memory.

    Args:
        comparisons: stored examples that a new one is compared with: the buffer's `comparisons`,
            which is this number unless it is given.
        repeats: optimizer steps on each batch.
    """

    def __init__(self, backbone: Backbone, comparisons: int, repeats: int) -> None:
        super().__init__(backbone)
        at_least(1, comparisons=comparisons, repeats=repeats)
        self.repeats = repeats

    def updates(self, batch: Batch) -> int:
        return self.repeats
