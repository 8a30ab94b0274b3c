"""The replay buffer as a method sees it between tasks: batches of what is stored, and rewriting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.datasets.batch import Batch, Transform


class Memory:
    """What the buffer holds; of `training.replay_sync=local`, this process's part.

    Args:
        buffer: None for a method without replay, whose memory is always empty.
        transform: raw bytes to inputs, used without augmentation.
    """

    def __init__(self, buffer: Buffer | None, transform: Transform) -> None:
        self._buffer = buffer
        self._transform = transform

    def __len__(self) -> int:
        return 0 if self._buffer is None else len(self._buffer)

    @property
    def capacity(self) -> int:
        """How many examples it can hold; 0 for a method without a buffer."""
        return 0 if self._buffer is None else self._buffer.size

    def split(self) -> tuple[Tensor, Tensor]:
        """All that it holds, in the order of the slots: uint8 [N, C, H, W] and int64 [N].

        Raises:
            ValueError: it is empty.
        """
        if self._buffer is None or not len(self._buffer):
            raise ValueError("the memory is empty")
        contents = self._buffer.contents()
        return contents["raw"], contents["y"]

    def batches(self, n: int) -> Iterator[Batch]:
        """The stored examples in the order of their slots, `n` at a time, without augmentation."""
        if self._buffer is None or not len(self._buffer):
            return
        contents = self._buffer.contents()
        parts = {key: value.split(n) for key, value in contents.items()}
        for number in range(len(parts["y"])):
            stored = {key: part[number] for key, part in parts.items()}
            raw, y = stored.pop("raw"), stored.pop("y")
            yield Batch(raw, y, self._transform, None, stored)

    def rewrite(self, slots: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Replace stored fields of the examples in `slots`, int64 [n], by `fields`, [n, …] each.

        Raises:
            ValueError: there is no such slot or field.
        """
        if self._buffer is None:
            raise ValueError("a method without replay has no memory to rewrite")
        self._buffer.rewrite(slots, fields)
