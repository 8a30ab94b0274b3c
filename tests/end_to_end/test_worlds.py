"""Every method, and every way to train, on 1, 2 and 4 processes: the same bits, or nearly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import worlds
from kit import assert_same
from ranks_of import clean, finish, start, torchrun

WORLDS = Path(worlds.__file__)
SIZES = (1, 2, 4)


RARE = [case for case in worlds.CASES if case not in worlds.OFTEN]


class Ends:
    """How cases ended by world size; one torchrun a world size for all that are run often, and one
    for all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[int, dict[str, Any]] = {n: {} for n in SIZES}

    def __call__(self, case: str, n: int) -> Any:
        if case not in self.known[n]:
            cases = RARE if case in RARE else list(worlds.OFTEN)
            with ThreadPoolExecutor(2) as pool:
                for size, ends in zip(
                    SIZES, pool.map(partial(self._run, cases), SIZES), strict=True
                ):
                    self.known[size] |= ends
        return self.known[n][case]

    def _run(self, cases: list[str], n: int) -> dict[str, Any]:
        folder = self.folder / f"{cases[0]}-{n}"
        folder.mkdir()
        words = (str(folder / "ends.pt"), *cases)
        process = start(folder, torchrun(n, script=WORLDS), *words)
        assert finish(process, 800) == 0, (folder / "stderr").read_text()
        kept: dict[str, Any] = torch.load(folder / "ends.pt", weights_only=True)
        return {case: clean(state) for case, state in kept.items()}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return Ends(tmp_path_factory.mktemp("worlds"))


def cases_of(names: Iterable[str]) -> list[Any]:
    """The cases as parameters; those that are not run often under -m exhaustive alone."""
    return [
        pytest.param(name, marks=[pytest.mark.exhaustive] if name in RARE else []) for name in names
    ]


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("case", cases_of(worlds.EXACT))
def test_the_world_size_changes_no_bit(ends: Ends, case: str, n: int) -> None:
    """Weights, optimizer, scaler, buffer, counts and losses."""
    one, many = dict(ends(case, 1)), dict(ends(case, n))
    assert one.pop("args") == many.pop("args")
    assert one["position"]["global_step"] >= 9
    assert_same(many, one)


def test_the_cases_differ(ends: Ends) -> None:
    """What agrees above is no constant: no two cases end with the same weights."""
    exact = [case for case in worlds.EXACT if case in worlds.OFTEN]
    different = {
        tuple(float(value.double().sum()) for value in end["model"].values())
        for end in (ends(case, 1) for case in exact)
    }
    assert len(different) == len(exact)


def test_uneven_and_empty_shards_took_part(ends: Ends) -> None:
    """The last batch of a task has 7 to 8 examples and a draw 3: 2, 2, 2, 1 and 1, 1, 1, 0."""
    state = ends("er-uneven", 4)
    n = [int((worlds.first_images().train.y // 2 == task).sum()) for task in (0, 1)]
    assert all(k % 10 % 4 for k in n)
    assert state["position"]["global_step"] == sum(math.ceil(k / 10) for k in n)
    assert state["buffer"]["filled"] == 7


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("case", cases_of(case for case in worlds.CLOSE if case != "local"))
def test_the_others_agree_within_rounding(ends: Ends, case: str, n: int) -> None:
    one, many = ends(case, 1), ends(case, n)
    assert list(many["model"]) == list(one["model"]), "names of tensors, without any wrapper's"
    tolerance = 1e-2 if "normed" in case else 1e-4
    for key, value in one["model"].items():
        torch.testing.assert_close(many["model"][key], value, rtol=tolerance, atol=tolerance / 10)
    for number, values in one["optimizer"]["state"].items():
        mine = many["optimizer"]["state"][number]["momentum_buffer"]
        assert mine.shape == values["momentum_buffer"].shape
    assert many["buffer"]["seen"] == one["buffer"]["seen"]
    assert torch.equal(many["buffer"]["fields"]["raw"], one["buffer"]["fields"]["raw"])


@pytest.mark.parametrize("n", [2, 4])
def test_batch_statistics_of_the_whole_batch_are_those_of_one_process(ends: Ends, n: int) -> None:
    for case in ("normed-small", "fsdp-normed"):
        one, many = ends(case, 1)["model"], ends(case, n)["model"]
        for layer in ("early", "norm"):
            for name in ("running_mean", "running_var"):
                key = f"backbone.{layer}.{name}"
                torch.testing.assert_close(many[key], one[key], rtol=1e-3, atol=1e-5)
            key = f"backbone.{layer}.num_batches_tracked"
            assert torch.equal(many[key], one[key])


@pytest.mark.parametrize("n", [2, 4])
def test_local_buffers_share_the_capacity(ends: Ends, n: int) -> None:
    """Each keeps its part of the size, of its own part of each batch, and all are saved."""
    parts = ends("local", n)["buffer"]["parts"]
    whole = ends("local", 1)["buffer"]
    assert len(parts) == n
    assert sum(part["filled"] for part in parts) == whole["parts"][0]["filled"] == 30
    assert {part["size"] for part in parts} <= {30 // n, 30 // n + 1}
    assert sum(part["seen"] for part in parts) == whole["parts"][0]["seen"]
    images = torch.cat([part["fields"]["raw"].flatten(1) for part in parts])
    assert len({tuple(image) for image in images.tolist()}) == 30, "no example is kept twice"
    accuracies = [ends("local", k)["matrix"]["task_il"][1] for k in (1, n)]
    for one, many in zip(*accuracies, strict=True):
        assert abs(one - many) < 0.2
