"""How long training stands still for a large checkpoint, against a plain `torch.save`.

python scripts/checkpoint_cost.py [--rounds 7]

The state is that of ResNet-18 with momentum and a buffer of 5,120 CIFAR images with logits. Both
ways take turns in one process; figures are wall and CPU milliseconds, median (minimum to maximum).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perdure.backbones.resnet import ResNet18
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.models.derpp import DERpp
from perdure.training.optim import SGD
from perdure.training.state import Position, SaveContext


def make_state() -> dict[str, Any]:
    """The parts of a full checkpoint that have a size."""
    method = DERpp(ResNet18((3, 32, 32), 10), 0.1, 0.5)
    optimizer = SGD(method.trainable(), lr=0.1, momentum=0.9)
    for p in method.trainable():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    buffer = Buffer(Reservoir(5120, 32))
    n = 5120
    fields = {
        "raw": torch.zeros(n, 3, 32, 32, dtype=torch.uint8),
        "y": torch.zeros(n, dtype=torch.int64),
        "logits": torch.zeros(n, 10),
    }
    buffer.add(fields, np.zeros(n, dtype=np.int64), np.random.default_rng(0))
    return {
        "model": dict(method.state_dict()),
        "optimizer": optimizer.state_dict(),
        "buffer": buffer.state_dict(),
    }


def save_at_once(state: dict[str, Any], path: Path) -> None:
    """What most projects do, made durable."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds of this thread's `action`."""
    wall, cpu = time.perf_counter(), time.thread_time()
    action()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.thread_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    state = make_state()
    spent: dict[str, list[tuple[float, float]]] = {"torch.save + fsync": [], "stall": []}
    with tempfile.TemporaryDirectory() as root:
        keeper = CheckpointManager(Path(root) / "kept", "run", Policy(), Cadence())
        for n in range(rounds + 1):
            plain = Path(root) / f"plain-{n}.pt"
            once = timed(lambda: save_at_once(state, plain))  # noqa: B023
            megabytes = plain.stat().st_size / 2**20
            plain.unlink()
            context = SaveContext(Position(0, 0, n + 1, n + 1), "task0", 0)
            stall = timed(lambda: keeper.save(state, context))  # noqa: B023
            keeper.wait()
            if n:  # the first staging allocates what the later ones fill again
                spent["torch.save + fsync"].append(once)
                spent["stall"].append(stall)
    print(f"{megabytes:.0f} MB, {rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for name, figures in spent.items():
        for i, kind in enumerate(("wall", "CPU")):
            values = [figure[i] for figure in figures]
            print(
                f"{name:20} {kind:4} {statistics.median(values):7.1f} ms "
                f"({min(values):.1f} to {max(values):.1f})"
            )
    ratio = [s[0] / o[0] for s, o in zip(spent["stall"], spent["torch.save + fsync"], strict=True)]
    print(f"stall / torch.save + fsync, wall: {statistics.median(ratio):.2f} (pair by pair)")


if __name__ == "__main__":
    main()
