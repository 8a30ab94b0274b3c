"""The rows of a Mammoth buffer, and the counter that Mammoth does not save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from others import MammothMLP, mammoth_checkpoint
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.interop import mammoth
from perdure.checkpoint.interop.foreign import Opened, open_file
from perdure.checkpoint.interop.mammoth import take_buffer
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.datasets.sources import MNIST
from perdure.errors import UserError

SIZE = 30
FOREIGN = Path(__file__).parents[2] / "fixtures" / "foreign"
UNKNOWN = "Mammoth does not save how many examples"


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
    buffer = Buffer(Reservoir(SIZE, 10))
    lines = take_buffer(opened(tmp_path, rows), buffer, shape=(1, 28, 28))
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
    buffer = Buffer(Reservoir(SIZE, 10))
    take_buffer(opened(tmp_path, rows), buffer, fields=("logits",))
    assert torch.equal(buffer.contents()["logits"], rows["logits"])


def test_rows_never_filled_are_left_out(rows: dict[str, Tensor], tmp_path: Path) -> None:
    for tensor in rows.values():
        tensor[12:] = 0
    buffer = Buffer(Reservoir(SIZE, 10))
    lines = take_buffer(opened(tmp_path, rows), buffer)
    assert len(buffer) == buffer.seen == 12
    assert lines[0].startswith("took 12 rows")
    new = {"raw": torch.full((20, 1, 28, 28), 7, dtype=torch.uint8), "y": torch.zeros(20).long()}
    buffer.add(new, np.zeros(20, dtype=np.int64), np.random.default_rng(0))
    assert len(buffer) == SIZE
    assert (buffer.contents()["raw"][12:] == 7).all()


def test_a_known_counter_keeps_the_reservoir_fair(rows: dict[str, Tensor], tmp_path: Path) -> None:
    replaced = []
    for seen in (None, 100 * SIZE):
        buffer = Buffer(Reservoir(SIZE, 10))
        lines = take_buffer(opened(tmp_path, rows), buffer, seen=seen)
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
        pytest.param(
            {}, Buffer(Reservoir(20, 5)), {}, r"holds 30 rows, and buffer\.size=20", id="size"
        ),
        pytest.param(
            {}, Buffer(ClassBalancedReservoir(30, 5)), {}, "buffer=reservoir", id="policy"
        ),
        pytest.param(
            {}, Buffer(Reservoir(40, 5)), {"seen": 99}, "cannot be of 99 seen", id="not-full"
        ),
        pytest.param(
            {}, Buffer(Reservoir(30, 5)), {"seen": 9}, "cannot be of 9 seen", id="seen-less"
        ),
        pytest.param(
            {}, Buffer(Reservoir(30, 5)), {"shape": (3, 32, 32)}, r"\(1, 28, 28\)", id="shape"
        ),
        pytest.param(
            {}, Buffer(Reservoir(30, 5)), {"fields": ("task_labels",)}, "needed are", id="not-there"
        ),
        pytest.param(
            {"examples": None}, Buffer(Reservoir(30, 5)), {}, "holds labels, logits", id="images"
        ),
        pytest.param(
            {"labels": torch.zeros(3)},
            Buffer(Reservoir(30, 5)),
            {},
            "a row of all else",
            id="labels",
        ),
        pytest.param(
            {"examples": torch.ones(30, 784)},
            Buffer(Reservoir(30, 5)),
            {},
            "not hold images",
            id="flat",
        ),
        pytest.param(
            {"examples": torch.randn(30, 1, 28, 28)},
            Buffer(Reservoir(30, 5)),
            {},
            "bytes",
            id="normalised",
        ),
        pytest.param(
            {"examples": torch.full((30, 1, 8, 8), torch.nan)},
            Buffer(Reservoir(30, 5)),
            {},
            "bytes",
            id="nan",
        ),
        pytest.param(
            {"examples": torch.zeros(30, 1, 28, 28)},
            Buffer(Reservoir(30, 5)),
            {},
            "0 rows",
            id="empty",
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
        take_buffer(opened(tmp_path, held), buffer, **options)
    assert len(buffer) == 0


def test_rows_of_another_project_are_refused(tmp_path: Path) -> None:
    torch.save({"model_state_dict": MammothMLP().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds nothing; needed are Mammoth's examples, labels"):
        take_buffer(open_file(tmp_path / "a.pt"), Buffer(Reservoir(5, 5)))


# --- the counter ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Opened:
    """Mammoth's own file after the third task."""
    return open_file(FOREIGN / "mammoth_er_task2.pt")


def count(opened: Opened, size: int = 500) -> tuple[int, str]:
    """What a buffer counts that took the rows, and the line on it."""
    buffer = Buffer(Reservoir(size, 10))
    _, line = take_buffer(opened, buffer)
    return buffer.seen, line


def changed(opened: Opened, name: str | None = None, **args: Any) -> Opened:
    path = opened.path if name is None else opened.path.with_name(name)
    return replace(opened, path=path, args={**opened.args, **args})


def test_it_follows_from_what_mammoths_own_files_hold(real: Opened) -> None:
    """The sizes are those of the real benchmark."""
    benchmark = ClassIncremental(MNIST().load(Path("data")), 5)
    sizes = [benchmark.n_train(task) for task in range(5)]
    seen, line = count(real)
    assert seen == sum(sizes[:3])
    assert line == (
        "its rows were drawn from 36,017 examples, as its arguments say: 3 tasks of seq-mnist, "
        "n_epochs=1"
    )
    assert count(open_file(FOREIGN / "mammoth_derpp_last.pt"))[0] == sum(sizes)
    assert count(changed(real, n_epochs=4))[0] == 4 * sum(sizes[:3])
    named = f"{real.args['ckpt_name']}_2.pt"
    assert count(changed(real, named))[0] == sum(sizes[:3])


def test_a_larger_buffer_counts_it_too(real: Opened) -> None:
    """Its free rows are filled as fast as a reservoir of that size takes new examples."""
    buffer = Buffer(Reservoir(1000, 10))
    take_buffer(real, buffer)
    n = 4000
    new = {"raw": torch.zeros(n, 1, 28, 28, dtype=torch.uint8), "y": torch.zeros(n).long()}
    buffer.add(new, np.zeros(n, dtype=np.int64), np.random.default_rng(0))
    assert buffer.seen == 36_017 + n
    assert 550 < len(buffer) < 650, "about 1000 * 4000 / 40,017 are taken"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"name": "9b2f-4c.pt"}, id="interrupted"),
        pytest.param({"name": "mammoth_er_task3.pt"}, id="another-task-in-the-name"),
        pytest.param({"name": "mammoth_er_last.pt"}, id="not-the-last"),
        pytest.param({"dataset": "seq-cub200"}, id="another-benchmark"),
        pytest.param({"model": "gdumb"}, id="another-method"),
        pytest.param({"n_epochs": None}, id="epochs"),
        pytest.param({"fitting_mode": "iters"}, id="iterations"),
        pytest.param({"validation": 10}, id="validation"),
        pytest.param({"drop_last": True}, id="drop-last"),
        pytest.param({"permute_classes": True}, id="class-order"),
        pytest.param({"loadcheck": "a.pt"}, id="resumed"),
        pytest.param({"joint": 1}, id="joint"),
        pytest.param({"debug_mode": 1}, id="debug"),
        pytest.param({"label_perc": 0.5}, id="labels"),
        pytest.param({"dataset_config": "5tasks"}, id="dataset-config"),
    ],
)
def test_where_it_is_not_certain_the_rows_count(real: Opened, change: dict[str, Any]) -> None:
    seen, line = count(changed(real, **change))
    assert seen == 500
    assert line.startswith(UNKNOWN)


def test_tasks_of_one_size_may_come_in_any_order(real: Opened) -> None:
    moved = changed(real, dataset="seq-cifar10", permute_classes=True, n_epochs=50)
    assert count(moved)[0] == 50 * 30_000


def test_a_buffer_that_is_not_full_has_not_seen_so_many(real: Opened) -> None:
    rows = {name: tensor.clone() for name, tensor in real.buffer.items()}
    rows["examples"][400:] = 0
    seen, line = count(replace(real, buffer=rows))
    assert seen == 400
    assert line.startswith(UNKNOWN)


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
    st.lists(st.integers(), max_size=2), st.just(torch.zeros(2)),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(args=st.dictionaries(st.sampled_from([*mammoth._WHOLE, "dataset", "model", "n_epochs",
                                             "stop_after", *mammoth._REORDERED]), odd),
       results=st.one_of(odd, st.just([[1]]), st.just([[[1], 2]])))  # fmt: skip
def test_a_files_own_arguments_are_never_trusted(
    real: Opened, args: dict[str, Any], results: Any
) -> None:
    """Of whatever type, they are no error and give no count that a reservoir cannot have."""
    for found in (changed(real, **args), replace(real, results=results)):
        seen = mammoth._derived(found, 500)
        assert seen is None or 500 <= seen < 2**53
