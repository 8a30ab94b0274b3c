"""`perdure orders`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.cli.orders import main
from perdure.config.overrides import readable
from perdure.errors import ExitRun


def test_the_orders_of_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset=seq-mnist", "--json", str(tmp_path / "orders.json")]) == 0
    found = json.loads((tmp_path / "orders.json").read_text())
    assert sorted(found["easy"]) == sorted(found["hard"]) == list(range(10))
    easy, hard = found["similarity"]
    assert hard <= min(found["random"]) <= max(found["random"]) <= easy
    pairs = [set(found["hard"][i : i + 2]) for i in range(0, 10, 2)]
    assert {4, 9} in pairs  # the digits that look most alike
    *_, command = capsys.readouterr().out.splitlines()
    order = ",".join(map(str, found["easy"]))
    assert command.startswith(
        f"perdure train -m dataset=seq-mnist 'dataset.class_order=[{order}],["
    )


def test_orders_do_not_depend_on_the_order_that_is_set(tmp_path: Path) -> None:
    for name, words in (("a", []), ("b", ["dataset.class_order=random", "order=5"])):
        main(["dataset=seq-mnist", *words, "--json", str(tmp_path / name)])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize("name", ["perm-mnist", "mnist-360"])
def test_a_benchmark_whose_tasks_share_classes_is_refused(name: str) -> None:
    with pytest.raises(ExitRun) as error:
        main([f"dataset={name}"])
    assert error.value.code == 2
    assert "must be a class-incremental benchmark" in error.value.sentence


def test_order_is_short_for_the_seed_of_the_benchmark() -> None:
    assert readable("order=range(20)") == "dataset.seed=range(20)"
    assert readable("orders=3") == "orders=3"
