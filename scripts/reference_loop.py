"""Reference loop: replay as it is usually written in PyTorch, the baseline of `benchmark.py`.

Nothing in the package uses this. It is meant to be ordinary, not slow on purpose: a DataLoader (no
workers: for images this small they cost more than they bring) over a Dataset that makes two tensors
of each image, the view to train on and the one without augmentation that the buffer keeps, as the
field's frameworks do; a reservoir filled example by example; replayed examples stacked one by one;
torch's SGD; `loss.item()` at each step; evaluation in batches of the training size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from plain_loop import mlp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

try:
    from PIL import Image, __version__

    IMAGES = f"Pillow {__version__}"
    open_image: Callable[[np.ndarray], Any] = Image.fromarray
except ImportError:
    IMAGES = "NumPy arrays (Pillow is not installed)"
    open_image = np.asarray


def to_tensor(image: Any) -> Tensor:
    """A gray image → float32 [1, H, W] in [0, 1], by the tensor operations of torchvision's."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    height, width = pixels.shape
    return pixels.view(height, width, 1).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def augment(x: Tensor) -> Tensor:
    """MNIST has no augmentation; with one the loop would pay more here."""
    return x


class GrayImages(Dataset[Any]):
    """Gray images, uint8 [N, H, W], with labels, int64 [N]; an item is (view, label)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return to_tensor(open_image(self.x[index].numpy())), int(self.y[index])


class TrainingImages(GrayImages):
    """An item is (view to train on, label, view without augmentation)."""

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = open_image(self.x[index].numpy())
        plain = to_tensor(image.copy())
        return augment(to_tensor(image)), int(self.y[index]), plain


class ReservoirBuffer:
    """Reservoir sampling, example by example: each one seen is kept with the same chance."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0
        self.fields: dict[str, Tensor] = {}

    def add(self, **batch: Tensor) -> None:
        """Offer a batch, tensors [B, …] by name, an example at a time."""
        if not self.fields:
            self.fields = {k: torch.zeros(self.size, *v.shape[1:]).to(v) for k, v in batch.items()}
        for i in range(len(batch["y"])):
            slot = self.seen if self.seen < self.size else np.random.randint(0, self.seen + 1)
            self.seen += 1
            if slot < self.size:
                for key, value in batch.items():
                    self.fields[key][slot] = value[i]

    def draw(self, n: int) -> dict[str, Tensor]:
        """`n` examples without replacement; images through the (here empty) augmentation."""
        stored = min(self.seen, self.size)
        rows = torch.from_numpy(np.random.choice(stored, min(n, stored), replace=False))
        drawn = {key: value[rows] for key, value in self.fields.items() if key != "x"}
        return {"x": torch.stack([augment(x) for x in self.fields["x"][rows]]), **drawn}


class ReferenceLoop:
    """ER, or DER++ where `dark` is given, on one task of gray images.

    Args:
        train: uint8 [N, H, W] and int64 [N].
        test: the same.
        batch_size: examples a step, replayed ones likewise, and a forward pass at evaluation.
        lr: learning rate.
        buffer_size: examples kept.
        classes: the task's; earlier tasks had those before them.
        dark: DER++'s α and β.
    """

    def __init__(
        self,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        batch_size: int,
        lr: float,
        buffer_size: int,
        classes: range,
        dark: tuple[float, float] | None = None,
    ) -> None:
        self.loader = DataLoader(TrainingImages(*train), batch_size, shuffle=True)
        self.test_loader = DataLoader(GrayImages(*test), batch_size)
        self.batch_size = batch_size
        self.classes = classes
        self.dark = dark
        self.buffer = ReservoirBuffer(buffer_size)
        self.net = mlp()
        self.losses: list[float] = []
        self._batches = self._forever()
        self._optimizer = torch.optim.SGD(self.net.parameters(), lr=lr)

    def train(self, steps: int) -> None:
        """Train for `steps` steps, over as many epochs as that takes."""
        self.net.train()
        for _ in range(steps):
            x, y, plain = next(self._batches)
            self._optimizer.zero_grad()
            loss, logits = self._er(x, y) if self.dark is None else self._derpp(x, y, *self.dark)
            loss.backward()
            self._optimizer.step()
            fields = {"x": plain, "y": y} if logits is None else {"x": plain, "y": y, "z": logits}
            self.buffer.add(**fields)
            self.losses.append(loss.item())

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Accuracy on the test data among all classes so far, and among the task's own."""
        self.net.eval()
        own, correct, correct_own, total = self.classes, 0, 0, 0
        for x, y in self.test_loader:
            logits = self.net(x)[:, : own.stop]
            correct += int((logits.argmax(1) == y).sum().item())
            logits[:, : own.start] = -torch.inf
            correct_own += int((logits.argmax(1) == y).sum().item())
            total += len(y)
        return correct / total, correct_own / total

    def _forever(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            yield from self.loader

    def _er(self, x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        if self.buffer.seen:
            past = self.buffer.draw(self.batch_size)
            x, y = torch.cat((x, past["x"])), torch.cat((y, past["y"]))
        return F.cross_entropy(self.net(x), y), None

    def _derpp(self, x: Tensor, y: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        if self.buffer.seen:
            past = self.buffer.draw(self.batch_size)
            loss = loss + alpha * F.mse_loss(self.net(past["x"]), past["z"])
            past = self.buffer.draw(self.batch_size)
            loss = loss + beta * F.cross_entropy(self.net(past["x"]), past["y"])
        return loss, logits.detach()
