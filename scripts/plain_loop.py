"""Plain loop: the main job written by hand, without a framework; a baseline of `benchmark.py`.

python scripts/plain_loop.py                  ER on the five tasks of seq-mnist, then the accuracies
python scripts/plain_loop.py --model derpp

Nothing in the package uses this. It is what a researcher who knows PyTorch writes in an hour: all
images are float tensors in memory, batches are slices of one gather a task, the buffer is a few
tensors with a reservoir, evaluation runs in large batches, and there is nothing else: no
configuration, no checkpoint, no metrics file, no resume.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MNIST = Path(__file__).parents[1] / "src" / "perdure" / "datasets" / "data" / "mnist"
BATCH, SIZE = 10, 500
SETTINGS = {"er": (0.1, 0.0, 0.0), "derpp": (0.03, 1.0, 0.5)}
"""Model → learning rate, α, β: those that `train.py` takes for a buffer of 500 on seq-mnist."""


def mlp() -> nn.Sequential:
    """784-100-100-10."""
    hidden = [nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()]
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


class BareStep:
    """Forward pass, loss, backward pass and update on inputs that are there already.

    What a step of this network costs at least; nothing is drawn, gathered, converted or stored.

    Args:
        model: "er" sees both batches in one forward pass, "derpp" all three.
        optimizer: makes the optimizer; torch's SGD if not given.
    """

    def __init__(self, model: str) -> None:
        self.net = mlp()
        lr, self.alpha, self.beta = SETTINGS[model]
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)
        n = BATCH * (2 if model == "er" else 3)
        self.x, self.y = torch.rand(n, 784), torch.randint(0, 10, (n,))
        self.z = torch.rand(BATCH, 10)

    def train(self, steps: int) -> None:
        """`steps` steps on the same batch."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            out = self.net(self.x)
            if not self.alpha:
                loss = F.cross_entropy(out, self.y)
            else:
                new, first, second = out.split(BATCH)
                loss = F.cross_entropy(new, self.y[:BATCH])
                loss = loss + self.alpha * F.mse_loss(first, self.z)
                loss = loss + self.beta * F.cross_entropy(second, self.y[-BATCH:])
            loss.backward()
            self.optimizer.step()


class Reservoir:
    """Examples, labels and logits in three tensors."""

    def __init__(self) -> None:
        self.x = torch.zeros(SIZE, 784)
        self.y = torch.zeros(SIZE, dtype=torch.int64)
        self.z = torch.zeros(SIZE, 10)
        self.seen = 0

    def add(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        for i in range(len(y)):
            slot = self.seen if self.seen < SIZE else np.random.randint(0, self.seen + 1)
            self.seen += 1
            if slot < SIZE:
                self.x[slot], self.y[slot], self.z[slot] = x[i], y[i], z[i]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        n = min(self.seen, SIZE)
        rows = torch.from_numpy(np.random.choice(n, min(BATCH, n), replace=False))
        return self.x[rows], self.y[rows], self.z[rows]


def train(model: str, data: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[float]:
    """Train on five tasks of two classes; the class-IL accuracies after the last one."""
    x_train, y_train, x_test, y_test = data
    lr, alpha, beta = SETTINGS[model]
    net, buffer, accuracy = mlp(), Reservoir(), list[float]()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for task in range(5):
        own = (y_train // 2 == task).nonzero().squeeze(1)
        order = own[torch.randperm(len(own))]
        for x, y in zip(x_train[order].split(BATCH), y_train[order].split(BATCH), strict=True):
            optimizer.zero_grad()
            if alpha:
                logits = net(x)
                loss = F.cross_entropy(logits, y)
                if buffer.seen:
                    past_x, _, past_z = buffer.draw()
                    loss = loss + alpha * F.mse_loss(net(past_x), past_z)
                    past_x, past_y, _ = buffer.draw()
                    loss = loss + beta * F.cross_entropy(net(past_x), past_y)
            else:
                both_x, both_y = x, y
                if buffer.seen:
                    past_x, past_y, _ = buffer.draw()
                    both_x, both_y = torch.cat((x, past_x)), torch.cat((y, past_y))
                logits = net(both_x)
                loss = F.cross_entropy(logits, both_y)
            loss.backward()
            optimizer.step()
            buffer.add(x, y, logits[: len(y)].detach())
        with torch.no_grad():
            seen = 2 * task + 2
            accuracy = []
            for t in range(task + 1):
                rows = (y_test // 2 == t).nonzero().squeeze(1)
                right = net(x_test[rows])[:, :seen].argmax(1) == y_test[rows]
                accuracy.append(right.double().mean().item())
    return accuracy


def read(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """MNIST as float32 [N, 784] in [0, 1] and int64 [N]: training images, labels, test likewise."""
    parts = []
    for part in ("train", "t10k"):
        images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
        y = np.frombuffer(labels, np.uint8, offset=8)
        parts += [torch.from_numpy(x / np.float32(255)), torch.from_numpy(y.astype(np.int64))]
    return parts[0], parts[1], parts[2], parts[3]


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=tuple(SETTINGS), default="er")
    parser.add_argument("--data", type=Path, default=MNIST, help="folder of MNIST's four files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    accuracy = train(options.model, read(options.data))
    print(f"class-IL {100 * sum(accuracy) / 5:.2f}", [round(a, 4) for a in accuracy])


if __name__ == "__main__":
    main()
