"""The rows of a Mammoth buffer, whose counter is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from others import MammothMLP, mammoth_checkpoint
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.interop.foreign import Opened, open_file
from perdure.checkpoint.interop.weights import mammoth_buffer
from perdure.datasets.arrays import Arrays
from perdure.errors import UserError

SIZE = 30


@pytest.fixture
def rows(tiny: Arrays) -> dict[str, Tensor]:
    """What `Buffer.serialize` gives: images as ToTensor made them, room for `SIZE`, all filled."""
    # Copies: a test that zeroes rows must not zero the session's digits.
    images, labels = tiny.train.x[:SIZE].clone(), tiny.train.y[:SIZE].clone()
    logits = torch.randn(SIZE, 10, generator=torch.Generator().manual_seed(0))
    return {"examples": images.float().div(255), "labels": labels, "logits": logits}


def opened(folder: Path, rows: dict[str, Tensor]) -> Opened:
    torch.save(mammoth_checkpoint(MammothMLP(), rows), folder / "a.pt")
    return open_file(folder / "a.pt")


def test_rows_come_back_as_bytes(rows: dict[str, Tensor], tiny: Arrays, tmp_path: Path) -> None:
    buffer = Reservoir(SIZE, 10)
    lines = mammoth_buffer(opened(tmp_path, rows), buffer, shape=(1, 28, 28))
    held = buffer.contents()
    assert torch.equal(held["raw"], tiny.train.x[:SIZE])
    assert held["raw"].dtype == torch.uint8
    assert torch.equal(held["y"], rows["labels"])
    assert set(held) == {"raw", "y"}
    assert buffer.seen == SIZE
    assert lines == [
        "took 30 rows of a.pt's buffer",
        "Mammoth does not save how many examples a buffer's rows were drawn from: that counts as "
        "30, and the next task will replace more of them than it should",
    ]


def test_what_the_method_remembered_comes_along(rows: dict[str, Tensor], tmp_path: Path) -> None:
    buffer = Reservoir(SIZE, 10)
    mammoth_buffer(opened(tmp_path, rows), buffer, fields=("logits",))
    assert torch.equal(buffer.contents()["logits"], rows["logits"])


def test_rows_never_filled_are_left_out(rows: dict[str, Tensor], tmp_path: Path) -> None:
    for tensor in rows.values():
        tensor[12:] = 0
    buffer = Reservoir(SIZE, 10)
    lines = mammoth_buffer(opened(tmp_path, rows), buffer)
    assert len(buffer) == buffer.seen == 12
    assert lines[0].startswith("took 12 rows")
    new = {"raw": torch.full((20, 1, 28, 28), 7, dtype=torch.uint8), "y": torch.zeros(20).long()}
    buffer.add(new, np.zeros(20, dtype=np.int64), np.random.default_rng(0))
    assert len(buffer) == SIZE
    assert (buffer.contents()["raw"][12:] == 7).all()


def test_a_known_counter_keeps_the_reservoir_fair(rows: dict[str, Tensor], tmp_path: Path) -> None:
    replaced = []
    for seen in (None, 100 * SIZE):
        buffer = Reservoir(SIZE, 10)
        lines = mammoth_buffer(opened(tmp_path, rows), buffer, seen=seen)
        assert len(lines) == (2 if seen is None else 1)
        n = 10 * SIZE
        new = {"raw": torch.zeros(n, 1, 28, 28, dtype=torch.uint8), "y": torch.zeros(n).long()}
        buffer.add(new, np.zeros(n, dtype=np.int64), np.random.default_rng(0))
        replaced.append(int((buffer.contents()["raw"].flatten(1).sum(1) == 0).sum()))
    assert replaced[0] > 20
    assert replaced[1] < 10


@pytest.mark.parametrize(
    ("change", "buffer", "options", "words"),
    [
        pytest.param({}, Reservoir(20, 5), {}, r"holds 30 rows, and buffer\.size=20", id="size"),
        pytest.param({}, ClassBalancedReservoir(30, 5), {}, "buffer=reservoir", id="policy"),
        pytest.param({}, Reservoir(40, 5), {"seen": 99}, "cannot be of 99 seen", id="not-full"),
        pytest.param({}, Reservoir(30, 5), {"seen": 9}, "cannot be of 9 seen", id="seen-less"),
        pytest.param({}, Reservoir(30, 5), {"shape": (3, 32, 32)}, r"\(1, 28, 28\)", id="shape"),
        pytest.param(
            {}, Reservoir(30, 5), {"fields": ("task_labels",)}, "needed are", id="not-there"
        ),
        pytest.param({"examples": None}, Reservoir(30, 5), {}, "holds labels, logits", id="images"),
        pytest.param(
            {"labels": torch.zeros(3)}, Reservoir(30, 5), {}, "a row of all else", id="labels"
        ),
        pytest.param(
            {"examples": torch.ones(30, 784)}, Reservoir(30, 5), {}, "not hold images", id="flat"
        ),
        pytest.param(
            {"examples": torch.randn(30, 1, 28, 28)}, Reservoir(30, 5), {}, "bytes", id="normalised"
        ),
        pytest.param(
            {"examples": torch.full((30, 1, 8, 8), torch.nan)},
            Reservoir(30, 5),
            {},
            "bytes",
            id="nan",
        ),
        pytest.param(
            {"examples": torch.zeros(30, 1, 28, 28)}, Reservoir(30, 5), {}, "0 rows", id="empty"
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    rows: dict[str, Tensor],
    change: dict[str, Any],
    buffer: Buffer,
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
) -> None:
    held = {name: tensor for name, tensor in {**rows, **change}.items() if tensor is not None}
    with pytest.raises(UserError, match=words):
        mammoth_buffer(opened(tmp_path, held), buffer, **options)
    assert len(buffer) == 0


def test_rows_of_another_project_are_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": MammothMLP().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds nothing; needed are Mammoth's examples, labels"):
        mammoth_buffer(open_file(tmp_path / "a.pt"), Reservoir(5, 5))
