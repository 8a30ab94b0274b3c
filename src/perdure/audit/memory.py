"""What a method keeps of the training data: within the buffer's capacity, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perdure.audit.excerpt import Excerpt
from perdure.audit.outcome import FindingError
from perdure.buffers.base import Buffer
from perdure.datasets.transforms import Scale
from perdure.models.base import Method

_DEEPEST = 5


class MemoryWatch:
    """Looks at the buffer after each step, and at all that the method holds after each task.

    Args:
        buffer: the buffer; None for a method without one.
        capacity: how many examples it may hold.
        benchmark: whose training examples may be in it.
        transform: raw bytes to inputs.
    """

    def __init__(
        self, buffer: Buffer | None, capacity: int, benchmark: Excerpt, transform: Scale
    ) -> None:
        self._buffer = buffer
        self._capacity = capacity
        self._benchmark = benchmark
        self._transform = transform
        self._offered: set[tuple[bytes, int]] = set()
        self._examples: set[bytes] = set()
        self._tasks = -1
        self.most = 0
        self.looked = 0

    def look(self, task: int) -> None:
        """Look at the buffer within `task`.

        Raises:
            FindingError: it holds too many examples, or one that was not offered.
        """
        if self._buffer is None or not len(self._buffer):
            return
        held, n = self._buffer.contents(), len(self._buffer)
        rows = max(len(value) for value in held.values())
        self.most, self.looked = max(self.most, n, rows), self.looked + 1
        if max(n, rows) > self._capacity:
            raise FindingError(
                f"the buffer holds {max(n, rows)} examples in task {task}, and its capacity is "
                f"{self._capacity}"
            )
        self._learn(task)
        for x, y in zip(_bytes_of(held["raw"]), held["y"].tolist(), strict=True):
            if (x, y) not in self._offered:
                raise FindingError(
                    f"the buffer holds an example of label {y} in task {task} that is none of the "
                    "training examples so far"
                )

    def search(self, method: Method, task: int) -> None:
        """Look for training examples in all that `method` holds when `task` has ended.

        Raises:
            FindingError: it holds some outside of the buffer.
        """
        self._learn(task)
        shape = self._benchmark.shape
        size = shape[0] * shape[1] * shape[2]
        for name, value in _tensors(method):
            if value.numel() < size or value.numel() % size:
                continue
            if tuple(value.shape[-3:]) != shape and value.shape[-1] not in (size, value.numel()):
                continue
            n = sum(row in self._examples for row in _bytes_of(value.reshape(-1, size)))
            if n:
                raise FindingError(
                    f"{name} holds {n} training examples after task {task}, outside of the buffer"
                )

    def _learn(self, task: int) -> None:
        """Take in the examples of the tasks up to `task`."""
        for new in range(self._tasks + 1, task + 1):
            split = self._benchmark.train(new)
            raw = _bytes_of(split.x)
            self._offered |= set(zip(raw, split.y.tolist(), strict=True))
            inputs = self._transform(split.x, None)
            self._examples |= {*raw, *_bytes_of(inputs), *_bytes_of(inputs.double())}
        self._tasks = max(self._tasks, task)


def _bytes_of(rows: Tensor) -> list[bytes]:
    flat = rows.detach().cpu().flatten(1).contiguous().numpy()
    return [row.tobytes() for row in flat]


def _tensors(method: Method) -> Iterator[tuple[str, Tensor]]:
    """All tensors that a method's modules, their attributes and their classes hold."""
    for name, module in method.named_modules():
        start = f"{name}." if name else ""
        yield from _within(vars(module), start, 0)
        for kind in type(module).__mro__:
            foreign = kind.__module__.partition(".")[0] in ("torch", "builtins")
            if not foreign and kind is not Method:
                yield from _within(vars(kind), start, 0)


def _within(value: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name.removesuffix("."), value
    elif depth > _DEEPEST or isinstance(value, nn.Module | str | bytes):
        return
    elif isinstance(value, Mapping):
        for key, each in value.items():
            inner = name if key in ("_buffers", "_parameters") else f"{name}{key}."
            yield from _within(each, inner, depth + 1)
    elif isinstance(value, list | tuple | set):
        if value and all(isinstance(each, Tensor) for each in value):
            parts = [each.detach().flatten(1) for each in value if each.ndim > 1]
            widths = {part.shape[1] for part in parts}
            for width in widths:
                yield name.removesuffix("."), torch.cat([p for p in parts if p.shape[1] == width])
        for each in value:
            yield from _within(each, name, depth + 1)
