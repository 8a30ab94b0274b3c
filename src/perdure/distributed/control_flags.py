"""What only one rank may know, and all must do at the same step: leave, or save by the clock."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.distributed.process_group import Ranks

_READ_EVERY = 32
"""Steps between reads on a GPU, where each makes the host wait for the device."""

_ELSEWHERE = "stopped by a signal to another process of the run"


class Agreement:
    """Each rank's wishes ride on the step's exchange, so that they cost none of their own.

    Args:
        ranks: who must agree.
        device: where the exchange is.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks = ranks
        self.stop: Callable[[], str | None] = lambda: None
        """Asked for a reason to leave."""
        self.late: Callable[[], bool] = lambda: False
        """Asked whether a checkpoint is due by the clock."""
        self._asked = torch.zeros(2, dtype=torch.uint8, device=device)

    def wishes(self) -> Tensor:
        """This rank's, uint8 [2]."""
        wishes = torch.tensor([self.stop() is not None, self.late()], dtype=torch.uint8)
        return wishes.to(self._asked.device, non_blocking=True)

    def take(self, asked: Tensor) -> None:
        """What anybody asked for in a step, uint8 [2]."""
        self._asked = torch.maximum(self._asked, asked)

    def read(self, global_step: int) -> tuple[str | None, bool]:
        """At a step boundary: the reason to leave, if any, and whether to save."""
        if self.ranks.size == 1:
            return self.stop(), self.late()
        if self._asked.device.type != "cpu" and global_step % _READ_EVERY:
            return None, False
        leave, save = self._asked.tolist()
        self._asked.zero_()
        return (self.stop() or _ELSEWHERE) if leave else None, bool(save)
