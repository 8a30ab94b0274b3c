"""A step's cost without a clock, and the fast path against a plain loop, to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.streams import TaskStream
from perdure.datasets.transforms import Scale
from perdure.models.base import Method, Task
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

ALPHA, BETA, BATCH, SIZE = 0.5, 0.3, 10, 500

MAKERS: dict[str, Callable[[MLP], Method]] = {
    "er": ER,
    "derpp": lambda network: DERpp(network, ALPHA, BETA),
    "derpp-apart": lambda network: DERpp(network, ALPHA, BETA),
}
"""The last one with `one_forward=false`."""


class Operations(TorchDispatchMode):
    """Counts the aten operations dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


WAITING = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique_consecutive",
    "_unique2",
    "unique_dim",
    "equal",
    "allclose",
    "repeat_interleave",
    "bincount",
}
"""Operations whose result the host must have before it can continue."""


class Run:
    """A method on the MLP with its step, fed from real digits."""

    def __init__(self, kind: str, arrays: Arrays, buffer_size: int = SIZE) -> None:
        self.streams = Streams(11)
        self.streams.seed_torch("initialisation")
        self.method = MAKERS[kind](MLP((1, 28, 28), 10))
        self.method.task = Task(0, range(10), range(10))
        self.buffer = Buffer(Reservoir(buffer_size, BATCH))
        self.optimizer = SGD(self.method.trainable(), lr=0.1)
        cpu = torch.device("cpu")
        settings = Settings(batch_size=BATCH, one_forward=kind != "derpp-apart")
        self.step = Step(self.method, Scale(), self.buffer, self.streams, settings, cpu)
        self.stream = TaskStream(arrays.train, BATCH, self.streams, 0)

    def go(self, steps: int) -> list[float]:
        losses = []
        for k, (raw, y, labels) in zip(range(steps), self.stream.batches(0), strict=False):
            loss = self.step(raw, y, labels, self.optimizer, Position(0, 0, k, k))
            losses.append(float(loss))
        return losses


@pytest.fixture(scope="module")
def some(mnist: Arrays) -> Arrays:
    """The first 3,300 training images of MNIST."""
    train = Split(mnist.train.x[:3300].clone(), mnist.train.y[:3300].clone())
    return Arrays(train, mnist.test, mnist.classes)


@pytest.mark.parametrize(("kind", "limit"), [("er", 68), ("derpp", 91), ("derpp-apart", 177)])
def test_a_step_dispatches_few_operations_and_never_waits(
    some: Arrays, kind: str, limit: int
) -> None:
    """With a full buffer of 500 and batches of 10 and 10; a step that stores nothing is cheaper."""
    run = Run(kind, some)
    run.go(60)
    assert len(run.buffer) == SIZE
    counts = []
    batches = run.stream.batches(0, 60)
    for k, (raw, y, labels) in zip(range(60, 80), batches, strict=False):
        with Operations() as seen:
            run.step(raw, y, labels, run.optimizer, Position(0, 0, k, k))
        assert not WAITING & set(seen.counts), "the host waits for the device"
        counts.append(sum(seen.counts.values()))
    assert max(counts) <= limit, f"{max(counts)} operations a step"
    assert min(counts) > 40, "the counter counts"


def test_the_gate_sees_a_host_that_waits() -> None:
    with Operations() as seen:
        x = torch.ones(3)
        x.sum().item()
        x.nonzero()
        x[x > 0]
        x.unique()
        bool(x[0] > 0)
    assert {"_local_scalar_dense", "nonzero", "_unique2"} <= WAITING & set(seen.counts)


# --- the plain loop ---------------------------------------------------------------------------


class PlainBuffer:
    """A list of examples, and Algorithm R one example at a time."""

    def __init__(self) -> None:
        self.examples: list[tuple[np.ndarray, int, Tensor | None]] = []
        self.seen = 0

    def add_all(
        self, images: list[np.ndarray], labels: list[int], logits: Any, uniforms: np.ndarray
    ) -> None:
        for k, u in enumerate(uniforms.tolist()):
            example = (images[k], labels[k], None if logits is None else logits[k].clone())
            r = self.seen if self.seen < SIZE else int(u * (self.seen + 1))
            self.seen += 1
            if r == len(self.examples) < SIZE:
                self.examples.append(example)
            elif r < SIZE:
                self.examples[r] = example

    def draw(self, uniforms: np.ndarray) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Floyd's algorithm, one example at a time."""
        n, rows = len(self.examples), list[int]()
        k = min(BATCH, n)
        for last, u in enumerate(uniforms.tolist()[:k], n - k):
            r = int(u * (last + 1))
            rows.append(last if r in rows else r)
        images, labels, logits = zip(*(self.examples[row] for row in rows), strict=True)
        return to_inputs(list(images)), torch.tensor(labels), list(logits)


def to_inputs(images: list[np.ndarray]) -> Tensor:
    """Each image by itself to a float tensor in [0, 1], then stacked."""
    return torch.stack([torch.from_numpy(image).float() / 255 for image in images])


def plain_loop(kind: str, arrays: Arrays, steps: int) -> tuple[MLP, PlainBuffer, list[float]]:
    """A loop as usually written; only the random numbers are the same by arrangement."""
    streams = Streams(11)
    streams.seed_torch("initialisation")
    network, buffer, losses = MLP((1, 28, 28), 10), PlainBuffer(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images, labels = arrays.train.x.numpy(), arrays.train.y.tolist()
    order = streams.numpy("order").permutation(len(labels)).tolist()
    draws = 1 if kind == "er" else 2
    for step in range(steps):
        block = {"step": step // 64}
        replay = streams.numpy("replay", **block).random((64, draws, BATCH))[step % 64]
        remember = streams.numpy("remember", **block).random((64, BATCH))[step % 64]
        rows = order[step * BATCH : (step + 1) * BATCH]
        raw, y = [images[row] for row in rows], [labels[row] for row in rows]
        optimizer.zero_grad()
        x, target = to_inputs(raw), torch.tensor(y)
        logits = None
        if kind == "er":
            if buffer.examples:
                old_x, old_y, _ = buffer.draw(replay[0])
                x, target = torch.cat((x, old_x)), torch.cat((target, old_y))
            loss = F.cross_entropy(network(x), target)
        elif not buffer.examples:
            logits = network(x)
            loss = F.cross_entropy(logits, target)
        else:
            (x1, _, z), (x2, y2, _) = (buffer.draw(numbers) for numbers in replay)
            if kind == "derpp":
                logits, z1, z2 = network(torch.cat((x, x1, x2))).split([len(x), len(x1), len(x2)])
            else:
                logits, z1, z2 = network(x), network(x1), network(x2)
            loss = F.cross_entropy(logits, target)
            loss = loss + ALPHA * F.mse_loss(z1, torch.stack(z))  # type: ignore[arg-type]
            loss = loss + BETA * F.cross_entropy(z2, y2)
        loss.backward()
        optimizer.step()
        buffer.add_all(raw, y, None if logits is None else logits.detach(), remember)
        losses.append(loss.item())
    return network, buffer, losses


@pytest.mark.parametrize("kind", MAKERS)
def test_the_fast_path_equals_a_plain_loop_to_the_bit(some: Arrays, kind: str) -> None:
    """Weights, buffer and losses after 320 steps of one image at a time."""
    steps = 320
    run = Run(kind, some)
    losses = run.go(steps)
    network, plain, expected = plain_loop(kind, some, steps)
    for ours, reference in zip(run.method.trainable(), network.parameters(), strict=True):
        assert torch.equal(ours.view(torch.int32), reference.view(torch.int32))
    assert losses == expected
    assert run.buffer.seen == plain.seen == steps * BATCH
    held = run.buffer.contents()
    images, labels, logits = zip(*plain.examples, strict=True)
    assert torch.equal(held["raw"], torch.from_numpy(np.stack(images)))
    assert held["y"].tolist() == list(labels)
    if kind != "er":
        assert torch.equal(held["logits"], torch.stack(logits))
    assert plain.seen > len(plain.examples) == SIZE
    assert sum(losses[-50:]) < 0.7 * sum(losses[:50]), "nothing was learnt"
