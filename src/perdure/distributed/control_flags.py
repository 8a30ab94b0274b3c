"""Control flags: what one rank notices and all must do at the same step (stop, save by the clock).

A signal reaches one process, and no two clocks agree; a rank that acted alone would leave the
others waiting in the next collective call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perdure.distributed.process_group import Ranks

_READ_EVERY = 32
"""Steps between reads on a GPU, where each makes the host wait for the device."""

_ELSEWHERE = "stopped by a signal to another process of the run"


class ControlFlags:
    """Each rank's flags travel with the step's all-gather and cost no collective call of their own.

    Args:
        ranks: who must agree.
        device: where the exchange takes place.
        stop: gives the reason to save and exit, or None.
        time_due: whether a checkpoint is due by the clock.
    """

    def __init__(
        self,
        ranks: Ranks,
        device: torch.device,
        stop: Callable[[], str | None] = lambda: None,
        time_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self.ranks = ranks
        self.stop = stop
        self.time_due = time_due
        self._raised = torch.zeros(2, dtype=torch.uint8, device=device)

    def local(self) -> Tensor:
        """This rank's flags (stop, save), uint8 [2]."""
        flags = torch.tensor([self.stop() is not None, self.time_due()], dtype=torch.uint8)
        return flags.to(self._raised.device, non_blocking=True)

    def merge(self, flags: Tensor) -> None:
        """Add the flags that any rank raised in a step, uint8 [2]; the host does not wait."""
        self._raised = torch.maximum(self._raised, flags)

    def read(self, global_step: int) -> tuple[str | None, bool]:
        """At a step boundary: the reason to stop, if there is one, and whether to save.

        Several ranks act on the merged flags alone, never on their own: these may have been raised
        after the exchange. A GPU's flags are read at fixed steps only, because the read waits for
        all that is queued on the device; they stay raised until then.
        """
        if self.ranks.size == 1:
            return self.stop(), self.time_due()
        if self._raised.device.type != "cpu" and global_step % _READ_EVERY:
            return None, False
        stop, save = self._raised.tolist()
        self._raised.zero_()
        return (self.stop() or _ELSEWHERE) if stop else None, bool(save)
