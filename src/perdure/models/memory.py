"""The replay buffer as a method sees it between tasks: batches of what is stored, and rewriting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.datasets.batch import Batch, Transform


class Memory:
    """What the buffer holds; of `training.replay_sync=local`, this process's part.

    Args:
        buffer: None for a method without a buffer, whose memory is always empty.
        transform: raw bytes to inputs, used without augmentation.
    """

    def __init__(self, buffer: Buffer | None, transform: Transform) -> None:
        self.buffer = buffer
        self._transform = transform

    def __len__(self) -> int:
        return 0 if self.buffer is None else len(self.buffer)

    @property
    def capacity(self) -> int:
        """How many examples it can hold; 0 for a method without a buffer."""
        return 0 if self.buffer is None else self.buffer.size

    def batches(self, n: int) -> Iterator[Batch]:
        """The stored examples in the order of their slots, `n` at a time, without augmentation.

        `batch["index"]`, int64 [B], are their slots.
        """
        contents = self._contents()
        if not contents:
            return
        slots = torch.arange(len(self), device=contents["y"].device)
        parts = {key: value.split(n) for key, value in {**contents, "index": slots}.items()}
        for number in range(len(parts["y"])):
            stored = {key: part[number] for key, part in parts.items()}
            raw, y = stored.pop("raw"), stored.pop("y")
            yield Batch(raw, y, self._transform, None, stored)

    def classes(self) -> list[int]:
        """The labels of which examples are stored, ascending; waits for the device."""
        found: list[int] = self._contents()["y"].unique().tolist() if len(self) else []
        return found

    def split(self) -> tuple[Tensor, Tensor]:
        """All stored examples in the order of their slots: uint8 [N, C, H, W], and int64 [N].

        Views of the memory, not to be written to.

        Raises:
            ValueError: nothing is stored.
        """
        if not len(self):
            raise ValueError("the memory holds no example")
        contents = self._contents()
        return contents["raw"], contents["y"]

    def rewrite(self, slots: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Replace stored fields of the examples in `slots`, int64 [n], by `fields`, [n, …] each.

        Raises:
            ValueError: there is no such slot or field.
        """
        if self.buffer is None:
            raise ValueError("a method without replay has no memory to rewrite")
        self.buffer.rewrite(slots, fields)

    def _contents(self) -> dict[str, Tensor]:
        return {} if self.buffer is None or not len(self) else self.buffer.contents()
