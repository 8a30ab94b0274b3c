"""The network is made ready for the ranks before any optimizer knows its parameters."""

from __future__ import annotations

from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import InOrder, Overlapped, Reduction
from perdure.models.base import Method
from perdure.training.settings import Settings


def prepare(method: Method, ranks: Ranks, settings: Settings) -> Reduction:
    """Change the network as `settings` says; returns how the shards' gradients become one.

    What one process does not need is not imported.
    """
    if settings.sync_batchnorm and ranks.size > 1:
        from perdure.distributed.batch_norm import synchronise

        synchronise(method.backbone, ranks)
    if settings.parallel == "fsdp" and ranks.size > 1:
        from perdure.distributed.fsdp import Sharded, split

        split(method.backbone, ranks)
        return Sharded(method.backbone)
    parameters = method.trainable()
    return InOrder(parameters) if settings.exact else Overlapped(parameters, ranks)
