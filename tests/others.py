"""Networks and checkpoints as other projects make them, name by name.

Mammoth: aimagelab/mammoth, `backbone/MNISTMLP.py`, `backbone/ResNetBlock.py` and
`utils/checkpoints.py` ("safe" mode). Catalyst: 20.12 ("stage" files) and 22.04 (runner mode).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class MammothMLP(nn.Module):
    """Each layer is registered two or three times, so its state has it under several names."""

    def __init__(self, n_in: int = 784, n_out: int = 10, width: int = 100) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, width)
        self.fc2 = nn.Linear(width, width)
        self._features = nn.Sequential(self.fc1, nn.ReLU(), self.fc2, nn.ReLU())
        self.classifier = nn.Linear(width, n_out)
        self.net = nn.Sequential(self._features, self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1))


class Block(nn.Module):
    """`projection` is what the project calls the branch around the block."""

    def __init__(self, n_in: int, n_out: int, stride: int, projection: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        around = nn.Sequential()
        if stride != 1 or n_in != n_out:
            conv = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            around = nn.Sequential(conv, nn.BatchNorm2d(n_out))
        self.projection = projection
        self.add_module(projection, around)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + getattr(self, self.projection)(x)).relu()


class OtherResNet(nn.Module):
    """`layer1` to `layer4`; Mammoth says shortcut and classifier, torchvision downsample and fc."""

    def __init__(
        self,
        projection: str = "shortcut",
        head: str = "classifier",
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        n_classes: int = 10,
        width: int = 4,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        n_in = width
        for stage, n in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(n):
                stride = 2 if stage and not block else 1
                layer.append(Block(n_in, width << stage, stride, projection))
                n_in = width << stage
            self.add_module(f"layer{stage + 1}", layer)
        self.head = head
        self.add_module(head, nn.Linear(n_in, n_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def wrap(module: nn.Module, *names: str) -> nn.Module:
    """`module` within modules that hold it under `names`, the innermost last."""
    for name in reversed(names):
        outer = nn.Module()
        outer.add_module(name, module)
        module = outer
    return module


def mammoth_checkpoint(
    net: nn.Module, buffer: dict[str, Tensor] | None = None, **args: Any
) -> dict[str, Any]:
    """After task 1 of 5: two accuracy matrices in percent and the logger's dump, with its text."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    known = {"dataset": "seq-mnist", "model": "er", "buffer_size": 500, "lr": 0.1, "seed": None}
    logger = {"accs": [[99.9], [95.5, 97.25]], "fullaccs": [], "mean": "96.37", "fwt": None}
    saved = {
        "model": wrap(net, "net").state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None,
        "args": {**known, **args},
        "results": [[[99.9], [95.5, 97.25]], [[99.9], [98.0, 99.0]], logger],
    }
    return saved if buffer is None else {**saved, "buffer": buffer}


def catalyst_stage_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, full: bool = True
) -> dict[str, Any]:
    """20.12: `train.2_full.pth`, or `train.2.pth`, which is the same without the optimizer."""
    packed = {
        "epoch_metrics": {"train_loss": 0.5, "valid_loss": 0.25},
        "valid_metrics": {"loss": 0.25},
        "stage": "train",
        "epoch": 2,
        "loader_key": "valid",
        "loader_batch_step": 7,
        "global_epoch": 2,
        "checkpoint_data": {},
        "main_metric": "loss",
        "minimize_metric": True,
        "valid_loader": "valid",
        "model_state_dict": model.state_dict(),
        "criterion_state_dict": nn.CrossEntropyLoss().state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
    }
    parts = ("criterion", "optimizer", "scheduler")
    return {k: v for k, v in packed.items() if full or not any(part in k for part in parts)}


def catalyst_runner_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any
) -> dict[str, Any]:
    """22.04, mode="runner": `runner.0002.pth`."""
    return {
        "epoch_step": 2,
        "batch_step": 20,
        "sample_step": 640,
        "model_state_dict": model.state_dict(),
        "criterion_state_dict": nn.CrossEntropyLoss().state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
    }
