"""Rows of metrics.jsonl: what was damaged is found, said and set aside; the rest stays."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.tracking.history import History


def history(folder: Path, told: list[str] | None = None) -> History:
    return History(folder / "metrics.jsonl", [].append if told is None else told.append)


def written(folder: Path, n: int, name: str = "step", every: int = 1) -> dict[str, Any]:
    """The state after `n` rows with a checkpoint after each `every`."""
    rows = history(folder)
    rows.open()
    state: dict[str, Any] = {}
    for number in range(1, n + 1):
        rows.append({"kind": name, "number": number})
        if number % every == 0:
            state = rows.state_dict()
    rows.close()
    return json.loads(json.dumps(state))  # as a checkpoint holds it


def numbers(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["number"] for line in lines]


def resumed(folder: Path, state: dict[str, Any]) -> tuple[History, list[str]]:
    told: list[str] = []
    rows = history(folder, told)
    rows.load_state_dict(state)
    rows.open()
    return rows, told


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def without_line(data: bytes, n: int) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[:n] + lines[n + 1 :])


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "a flipped bit in the last row": (lambda data: flip(data, len(data) - 5), 9),
    "a flipped bit in the middle": (lambda data: flip(data, data.index(b"6") + 0), 5),
    "a flipped bit at the start": (lambda data: flip(data, 3), 0),
    "a removed line": (lambda data: without_line(data, 4), 4),
    "a removed line and a longer file": (lambda data: without_line(data, 4) + data, 4),
    "another run's rows": (lambda data: data.replace(b"step", b"task"), 0),
    "cut": (lambda data: data[: len(data) // 2], 5),
    "empty": (lambda data: b"", 0),
    "zeros": (lambda data: bytes(len(data)), 0),
}


@pytest.mark.parametrize(("damage", "n_intact"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_and_the_rows_before_it_stay(
    tmp_path: Path, damage: Callable[[bytes], bytes], n_intact: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    state = written(tmp_path, 10)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    rows, told = resumed(tmp_path, state)
    assert len(told) == 1
    assert told[0].startswith(f"{path}: damaged: ")
    assert numbers(tmp_path) == list(range(1, n_intact + 1))
    aside = path.with_name("metrics.jsonl.damaged-0")
    assert not aside.exists() if path.read_bytes() == damaged else aside.read_bytes() == damaged
    rows.append({"kind": "step", "number": 11})
    again = rows.state_dict()
    rows.close()
    assert numbers(tmp_path) == [*range(1, n_intact + 1), 11]
    assert resumed(tmp_path, again)[1] == []


def test_nothing_is_told_of_an_intact_history(tmp_path: Path) -> None:
    state = written(tmp_path, 10)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "st')  # past the checkpoint, where a kill came
    rows, told = resumed(tmp_path, state)
    rows.close()
    assert told == []
    assert numbers(tmp_path) == list(range(1, 11))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    state = written(tmp_path, 20, every=5)
    path = tmp_path / "metrics.jsonl"
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(30):
        path.write_bytes(flip(whole, chance.randrange(len(whole))))
        rows, told = resumed(tmp_path, state)
        rows.close()
        assert len(told) == 1
        assert whole.startswith(path.read_bytes())


def test_a_checkpoint_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    state = written(tmp_path, 3)
    rows, told = resumed(tmp_path, {"metrics_bytes": state["metrics_bytes"]})
    rows.append({"number": 4})
    rows.state_dict()
    assert (told, numbers(tmp_path)) == ([], [1, 2, 3, 4])


def test_the_checksums_take_little_room_whatever_is_saved(tmp_path: Path) -> None:
    state = written(tmp_path, 2000)
    marks = state["metrics_sha256"]
    assert 32 <= len(marks) <= 64
    assert marks[-1][0] == state["metrics_bytes"]
    os.truncate(tmp_path / "metrics.jsonl", state["metrics_bytes"] - 1)
    rows, _ = resumed(tmp_path, state)
    rows.close()
    assert len(numbers(tmp_path)) > 1900


def test_a_long_history_is_opened_in_linear_time_and_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    state = written(tmp_path, 100_000, every=10_000)
    tracemalloc.start()
    started = time.process_time()
    rows, told = resumed(tmp_path, state)
    seconds = time.process_time() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows.close()
    assert told == []
    assert peak < 5 * 2**20
    assert seconds < 30
