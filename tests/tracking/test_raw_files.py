"""records/: the same files whatever was killed, bounded, and read as foreign data."""

from __future__ import annotations

import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import MakeTrainer

from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import entries
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.config.schema import EvaluationConfig
from perdure.errors import UserError
from perdure.tracking import raw_files
from perdure.tracking.files import LocalFiles
from perdure.tracking.raw_files import RawFiles, copy_records, read_examples, read_rows

OFTEN = EvaluationConfig(probe_every=5, probe_size=12, first_batches=3)


def content(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "records").iterdir()}


def row(step: int, task: int = 0, **more: Any) -> dict[str, Any]:
    return {"kind": "probe", "task": task, "epoch": 0, "global_step": step, **more}


def test_after_a_kill_the_folder_ends_as_the_undisturbed_one(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Resumed from any checkpoint, with what was written after it, or torn, still there."""
    calm, options = tmp_path / "calm", {"iterations": 9, "epochs": 1, "evaluation": OFTEN}
    keep = CheckpointManager(tmp_path / "saved", "run", Policy(save=True), Cadence("4 steps"))
    keep._remove = lambda gone: None  # type: ignore[method-assign]
    make_trainer(recorders=[LocalFiles(calm)], folder=calm, checkpoints=keep, **options).fit()
    wanted = content(calm)
    assert set(wanted) == {"evaluations.jsonl", "task-0.npz", "task-1.npz", "task-2.npz"}
    paths = [entry.path for entry in entries(tmp_path / "saved") if entry.full]
    assert len(paths) > 6
    for number, path in enumerate(paths):
        run = tmp_path / str(number)
        shutil.copytree(calm, run)
        with (run / "records" / "evaluations.jsonl").open("ab") as file:
            file.write(b'{"kind":"probe","ta')
        (run / "records" / ".tmp-0123456789abcdef").write_bytes(b"PK")
        resumed = make_trainer(recorders=[LocalFiles(run)], folder=run, **options)
        resumed.load_state_dict(read(path))
        resumed.fit()
        assert content(run) == wanted, path.name


def test_what_lies_after_the_position_is_dropped(tmp_path: Path) -> None:
    files = RawFiles(tmp_path)
    files.start(0, 0, 3)
    for step in (0, 5, 10):
        files.append(row(step))
    for task in range(3):
        files.write(task, {"task": np.zeros(2, np.uint8), "label": np.arange(2)})
    files.close()
    files = RawFiles(tmp_path)
    files.start(5, 1, 3)
    assert [r["global_step"] for r in read_rows(tmp_path)] == [0, 5]
    assert set(content(tmp_path)) == {"evaluations.jsonl", "task-0.npz"}
    files.append(row(5))
    files.append(row(5, task=1))
    files.close()
    assert [(r["global_step"], r["task"]) for r in read_rows(tmp_path)] == [(0, 0), (5, 0), (5, 1)]


def test_rows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_files, "ROWS_LIMIT", 200)
    files = RawFiles(tmp_path)
    files.start(0, 0, 1)
    for step in range(50):
        files.append(row(step))
    files.close()
    path = tmp_path / "records" / "evaluations.jsonl"
    assert 100 < path.stat().st_size <= 200
    assert len(read_rows(tmp_path)) == path.read_bytes().count(b"\n")


def test_a_folder_that_records_nothing_has_none(tmp_path: Path) -> None:
    files = RawFiles(tmp_path)
    files.start(0, 0, 3)
    files.close()
    assert list(tmp_path.iterdir()) == []
    assert read_rows(tmp_path) == []
    assert read_examples(tmp_path, 0) is None


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "run" / "records").mkdir(parents=True)
    (tmp_path / "run" / "records" / "evaluations.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="is a link"):
        RawFiles(tmp_path / "run").start(0, 0, 1)
    assert (tmp_path / "other").read_text() == "mine"
    assert read_rows(tmp_path / "run") == []


def test_records_go_along_with_a_checkpoint(tmp_path: Path) -> None:
    files = RawFiles(tmp_path / "old")
    files.start(0, 0, 2)
    files.append(row(1))
    for task in range(2):
        files.write(task, {"task": np.zeros(2, np.uint8), "label": np.arange(2)})
    files.close()
    copy_records(tmp_path / "old", tmp_path / "new", 1)
    before = content(tmp_path / "old")
    del before["task-1.npz"]
    assert content(tmp_path / "new") == before
    copy_records(tmp_path / "nowhere", tmp_path / "newer", 1)
    assert not (tmp_path / "newer").exists()


def test_arrays_come_back(tmp_path: Path) -> None:
    arrays = {
        "task": np.array([0, 1], np.uint16),
        "label": np.array([3, 200], np.uint8),
        "confidence": np.array([0.5, 1], np.float16),
        "every": np.array(2, np.int32),
    }
    RawFiles(tmp_path).write(4, arrays)
    found = read_examples(tmp_path, 4)
    assert found is not None
    assert found.keys() == arrays.keys() - {"every"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype


class Armed:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def hostile(name: str, path: Path, canary: Path) -> None:
    good = {"task": np.zeros(4, np.uint8), "label": np.arange(4)}
    if name == "a pickle":
        np.savez(path, **good, confidence=np.array([Armed(canary)] * 4, object))
    elif name == "compressed":
        np.savez_compressed(path, **good)
    elif name == "text":
        path.write_text("no zip")
    elif name == "other lengths":
        np.savez(path, **{**good, "label": np.arange(3)})
    elif name == "a matrix":
        np.savez(path, **{key: value.reshape(2, 2) for key, value in good.items()})
    elif name == "text arrays":
        np.savez(path, **good, id=np.array(["a"] * 4))
    elif name == "nothing":
        np.savez(path)
    elif name == "no header":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("task.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<u1',")
    elif name == "a huge shape":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }"
        with zipfile.ZipFile(path, "w") as file:
            data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            file.writestr("task.npy", data)
    elif name == "a link":
        np.savez(path.with_name("real.npz"), **good)
        path.symlink_to(path.with_name("real.npz"))


NAMES = [
    "a pickle", "compressed", "text", "other lengths", "a matrix", "text arrays", "nothing",
    "no header", "a huge shape", "a link",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hostile_arrays_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    hostile(name, tmp_path / "records" / "task-0.npz", tmp_path / "canary")
    with pytest.raises(UserError, match="damaged"):
        read_examples(tmp_path, 0)
    assert not (tmp_path / "canary").exists()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_arrays_are_refused_or_read(data: st.DataObject, tmp_path_factory: Any) -> None:
    run = tmp_path_factory.mktemp("run")
    arrays = {"task": np.zeros(4, np.uint8), "label": np.arange(4)}
    RawFiles(run).write(0, arrays)
    path = run / "records" / "task-0.npz"
    blob = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(blob[: data.draw(st.integers(0, len(blob)))])
    with suppress(UserError):
        read_examples(run, 0)


@pytest.mark.parametrize(
    "line", ["[1]", "{", '{"a": 1, "a": 2}', "NaN", '{"global_step": "x"}', "\udcff", "[" * 9999]
)
def test_rows_up_to_the_first_damaged_one(line: str, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    good = json.dumps(row(1)) + "\n"
    path = tmp_path / "records" / "evaluations.jsonl"
    path.write_bytes((good + line + "\n" + good).encode(errors="surrogateescape"))
    assert read_rows(tmp_path)[0] == row(1)
    RawFiles(tmp_path).start(9, 1, 1)
    assert path.read_text() == good
