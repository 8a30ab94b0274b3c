"""Files that Mammoth and Catalyst wrote themselves give the accuracies that they gave there.

tests/fixtures/foreign/README.md says where each is from.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.checkpoint.interop.foreign import open_file
from perdure.checkpoint.interop.weights import fill
from perdure.datasets.sources import MNIST

FOLDER = Path(__file__).parents[2] / "fixtures" / "foreign"
CATALYST = {
    "catalyst-20.12_my_checkpoint.pth": "catalyst-20.12_accuracy.json",
    "catalyst-20.12_my_checkpoint_full.pth": "catalyst-20.12_accuracy.json",
    "catalyst-20.12_run_last.pth": "catalyst-20.12_accuracy.json",
    "catalyst-20.12_run_last_full.pth": "catalyst-20.12_accuracy.json",
    "catalyst-22.04_my_checkpoint.pth": "catalyst-22.04_accuracy.json",
    "catalyst-22.04_my_checkpoint_full.pth": "catalyst-22.04_accuracy.json",
}


@pytest.fixture(scope="module")
def examples() -> tuple[Tensor, Tensor]:
    test = MNIST().load(Path("data")).test
    return test.x.float() / 255, test.y


def scores(name: str, images: Tensor) -> Tensor:
    opened = open_file(FOLDER / name)
    network = MLP((1, 28, 28), 10, (100, 100))
    fill(network, opened.weights)
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


def pairs(logits: Tensor, labels: Tensor, tasks: int, within: bool) -> list[float]:
    """Accuracy on each of the first pairs of classes; `within` chooses among the two alone."""
    found = []
    for task in range(tasks):
        rows = (labels == 2 * task) | (labels == 2 * task + 1)
        part = logits[rows].clone()
        if within:
            others = [c for c in range(10) if c not in (2 * task, 2 * task + 1)]
            part[:, others] = -torch.inf
        found.append((part.argmax(1) == labels[rows]).double().mean().item())
    return found


@pytest.mark.parametrize(
    "name", ["mammoth_er_task2.pt", "mammoth_sgd_last.pt", "mammoth_derpp_last.pt"]
)
def test_mammoth(name: str, examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    class_il, task_il = open_file(FOLDER / name).results[:2]
    for within, rows in ((False, class_il), (True, task_il)):
        expected = [float(value) for value in rows[-1]]
        found = pairs(scores(name, images), labels, len(expected), within)
        assert [100 * value for value in found] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "record"), CATALYST.items(), ids=CATALYST)
def test_catalyst(name: str, record: str, examples: tuple[Tensor, Tensor]) -> None:
    images, labels = examples
    expected = json.loads((FOLDER / record).read_text())
    logits = scores(name, images)
    assert pairs(logits, labels, 5, within=False) == pytest.approx(expected["acc"], abs=3e-6)
    overall = (logits.argmax(1) == labels).double().mean().item()
    assert overall == pytest.approx(expected["overall"], abs=3e-6)
