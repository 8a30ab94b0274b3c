"""How costs grow with the size of the work (`benchmark.py --growth`): the exponent of each.

A cost that grows as n^e doubles with n where e is 1. A command of its own would need no more: the
sizes of each row are measured in turn, several times, and the least of the times is taken, since
whatever else the machine does only adds to it.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perdure.analysis.tables import markdown_table as table
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import ledger
from perdure.datasets.arrays import Split
from perdure.datasets.classes import Classes
from perdure.datasets.streams import TaskStream
from perdure.datasets.transforms import Scale
from perdure.metrics.counts import AccuracyCounts
from perdure.models.base import Task
from perdure.models.er import ER
from perdure.randomness import Streams
from perdure.tracking.history import History
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

Timed = Callable[[], Any]


@dataclass(frozen=True)
class Cost:
    """A cost and the sizes at which it is measured.

    Attributes:
        name: what is done.
        of: what grows.
        sizes: least to greatest.
        prepare: a context for one size, which gives the work to time.
        expected: the exponent that the work itself has, at most.
    """

    name: str
    of: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Any]
    expected: float = 1.0


def growth(runs: int = 3) -> list[dict[str, Any]]:
    """CPU seconds of every cost at each of its sizes, and the exponent between the outer two."""
    rows = []
    for cost in COSTS:
        best = [_least(cost.prepare, size, runs) for size in cost.sizes]
        ratio = math.log(cost.sizes[-1] / cost.sizes[0])
        exponent = math.log(best[-1] / best[0]) / ratio
        rows.append({"cost": cost.name, "of": cost.of, "sizes": cost.sizes, "seconds": best,
                     "exponent": exponent, "expected": cost.expected})  # fmt: skip
    return rows


def growth_table(rows: Sequence[dict[str, Any]]) -> str:
    """The report of `growth` as a table."""
    lines: list[Sequence[str]] = [("cost", "of", "sizes", "CPU ms", "exponent", "of the work")]
    for row in rows:
        sizes = " → ".join(f"{size:,}" for size in row["sizes"])
        times = " → ".join(f"{seconds * 1e3:,.3g}" for seconds in row["seconds"])
        numbers = (f"{row['exponent']:.2f}", f"{row['expected']:g}")
        lines.append((row["cost"], row["of"], sizes, times, *numbers))
    return table(lines)


def _least(prepare: Callable[[int], Any], size: int, runs: int) -> float:
    with prepare(size) as work:
        work()  # warms up
        times = []
        for _ in range(runs):
            started = time.process_time()
            work()
            times.append(time.process_time() - started)
    return max(min(times), 1e-7)


# --- the costs ------------------------------------------------------------------------------------


def _offers(kind: type[Reservoir] | type[ClassBalancedReservoir]) -> Callable[[int], Any]:
    @contextmanager
    def prepare(size: int) -> Iterator[Timed]:
        """A hundred batches of ten offered to a buffer of `size` that is full."""
        generator, buffer = np.random.default_rng(0), Buffer(kind(size, 10))
        labels = generator.integers(0, 100, 2 * size)
        x = torch.zeros(len(labels), 1, dtype=torch.uint8)
        buffer.add({"raw": x, "y": torch.from_numpy(labels)}, labels, generator)
        late = [generator.integers(0, 110, 10) for _ in range(100)]
        batches = [({"raw": x[:10], "y": torch.from_numpy(part)}, part) for part in late]

        def work() -> None:
            for fields, part in batches:
                buffer.add(fields, part, generator)

        yield work

    return prepare


@contextmanager
def _draws(size: int) -> Iterator[Timed]:
    """Replay draws of ten from a buffer of `size`."""
    generator, buffer = np.random.default_rng(0), Buffer(Reservoir(size, 10))
    y = torch.zeros(size, dtype=torch.int64)
    buffer.add(
        {"raw": torch.zeros(size, 1, 28, 28, dtype=torch.uint8), "y": y}, y.numpy(), generator
    )

    def work() -> None:
        for _ in range(200):
            buffer.draw(10, generator)

    yield work


def _steps(batch: int, classes: int) -> Timed:
    method = ER(MLP((1, 28, 28), classes, (100, 100)))
    method.task = Task(0, Classes(range(classes)), Classes(range(classes)))
    step = Step(
        method, Scale(), Buffer(Reservoir(500, batch)), Streams(0), Settings(batch_size=batch),
        torch.device("cpu"),
    )  # fmt: skip
    optimizer = SGD(method.trainable(), lr=0.01)
    raw = torch.randint(0, 256, (batch, 1, 28, 28), dtype=torch.uint8)
    y = torch.randint(0, classes, (batch,))

    def work() -> None:
        for k in range(50):
            step(raw, y, y.numpy(), optimizer, Position(0, 0, k, k))

    return work


@contextmanager
def _batch(size: int) -> Iterator[Timed]:
    """Fifty steps of ER with batches of `size`."""
    yield _steps(size, 10)


@contextmanager
def _classes(size: int) -> Iterator[Timed]:
    """Fifty steps of ER with `size` classes."""
    yield _steps(10, size)


@contextmanager
def _epoch(size: int) -> Iterator[Timed]:
    """The batches of an epoch over `size` images, without training on them."""
    split = Split(torch.zeros(size, 1, 28, 28, dtype=torch.uint8), torch.zeros(size).long())
    stream = TaskStream(split, 10, Streams(0), 0)

    def work() -> None:
        for _ in stream.batches(0):
            pass

    yield work


@contextmanager
def _metrics(tasks: int) -> Iterator[Timed]:
    """All evaluations of a run of so many tasks, with the metrics after each of them."""

    def work() -> None:
        counts = AccuracyCounts(("class_il", "task_il"), tasks)
        for task in range(tasks):
            correct = [900] * (task + 1)
            counts.add({"class_il": correct, "task_il": correct}, [1000] * (task + 1), task, True)
            counts.state_dict()
        counts.matrix()
        counts.metrics()

    yield work


@contextmanager
def _rows(n: int) -> Iterator[Timed]:
    """Reopening metrics.jsonl with `n` rows, as a resume does."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "metrics.jsonl")
        row = {"kind": "step", "task": 0, "epoch": 0, "global_step": 10, "loss": 0.25, "lr": 0.1}
        path.write_text((json.dumps(row) + "\n") * n)
        size = path.stat().st_size

        def work() -> None:
            history = History(path)
            history.load_state_dict({"metrics_bytes": size})
            history.open()
            history.close()

        yield work


@contextmanager
def _sidecars(n: int) -> Iterator[Timed]:
    """Listing the checkpoints of a folder that has `n`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in range(n):
            about = {
                "kind": "step", "stage": "task0", "epoch": 0, "value": None, "siblings": [],
                "position": {"task": 0, "epoch": 0, "step": step, "global_step": step},
            }  # fmt: skip
            files.write(folder / f"step-{step}_full.pth", {"position": about["position"]}, about)

        yield lambda: ledger.entries(folder)


COSTS = (
    Cost("100 offers, reservoir", "buffer size", (200, 5_000, 50_000), _offers(Reservoir), 0),
    Cost("100 offers, class-balanced", "buffer size", (200, 5_000, 50_000),
         _offers(ClassBalancedReservoir), 0),
    Cost("200 replay draws", "buffer size", (200, 5_000, 50_000), _draws, 0),
    Cost("50 steps of ER", "batch size", (10, 64, 512), _batch),
    Cost("50 steps of ER", "classes", (10, 100, 1_000), _classes),
    Cost("batches of an epoch", "images", (15_000, 30_000, 60_000), _epoch),
    Cost("evaluations and metrics", "tasks", (5, 50, 200), _metrics, 2),
    Cost("reopening metrics.jsonl", "rows", (1_000, 100_000, 1_000_000), _rows),
    Cost("listing checkpoints", "sidecars", (10, 500, 5_000), _sidecars),
)  # fmt: skip
"""Of the evaluations there are as many as tasks, each of as many accuracies: quadratic."""
