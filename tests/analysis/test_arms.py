"""Which runs are compared with which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs_of import make_run

from perdure.analysis.arms import Arm, compare
from perdure.analysis.runs import read, selected
from perdure.errors import UserError

ACCURACY = "average_accuracy.class_il"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three methods, two buffer sizes, seven seeds; derpp is better at 500 alone."""
    job = 0
    for model, lead in (("er", 0.0), ("derpp", 0.1), ("sgd", -0.3)):
        for size in (200, 500):
            for seed in range(7):
                noise = 0.01 * (-1) ** seed * (2 if model == "derpp" else 1)
                make_run(
                    tmp_path / str(job), model, seed, f"buffer.size={size}",
                    accuracy=0.5 + noise + (0 if (model, size) == ("derpp", 200) else lead),
                    config={"buffer": {"size": size}},
                )  # fmt: skip
                job += 1
    return tmp_path


def arms(sweep: Path, *conditions: str, where: str = "") -> list[Arm]:
    runs = selected(read([sweep]), filter(None, [where]))
    return [
        Arm(each, selected(runs, each.split(",")), tuple(c.split("=")[0] for c in each.split(",")))
        for each in conditions
    ]


def test_at_each_value_of_what_both_vary_in(sweep: Path) -> None:
    found = compare(arms(sweep, "model=derpp", "model=er"))
    assert [(each.setting, each.verdict) for each in found] == [
        ("buffer.size=200", "not told apart"), ("buffer.size=500", "better"),
    ]  # fmt: skip
    assert [each.of for each in found] == [2, 2]
    assert [each.p for each in found] == [found[0].p, 2**-6]
    assert found[1].adjusted == 2 * 2**-6


def test_the_first_against_all_and_all_pairs(sweep: Path) -> None:
    three = arms(sweep, "model=derpp", "model=er", "model=sgd", where="buffer.size=500")
    assert [each.names for each in compare(three)] == [
        ("model=derpp", "model=er"), ("model=derpp", "model=sgd"),
    ]  # fmt: skip
    found = compare(three, all_pairs=True)
    assert [each.names for each in found][2:] == [("model=er", "model=sgd")]
    assert {each.of for each in found} == {3}
    assert found[1].adjusted == 3 * 2**-6


def test_several_metrics_are_corrected_together(sweep: Path) -> None:
    found = compare(arms(sweep, "model=derpp", "model=er"), [ACCURACY, "cost.flops"])
    assert [each.metric for each in found] == [ACCURACY, "cost.flops"] * 2
    assert {each.of for each in found} == {4}


def test_what_one_arm_alone_varies_in_must_be_chosen(sweep: Path) -> None:
    with pytest.raises(UserError, match=r"model=er: its runs differ in buffer.size \(200, 500\)"):
        compare(arms(sweep, "model=derpp,buffer.size=500", "model=er"))
    (found,) = compare(arms(sweep, "model=derpp,buffer.size=500", "model=er,buffer.size=200"))
    assert found.verdict == "better"


def test_folders_without_a_setting_in_common(sweep: Path, tmp_path: Path) -> None:
    one = arms(sweep, "buffer.size=200", where="model=er")
    (other,) = arms(sweep, "buffer.size=500")
    with pytest.raises(UserError, match="its runs differ in model"):
        compare([*one, other])
    runs = read([sweep])
    first = Arm("a", selected(runs, ["model=er"]))
    second = Arm("b", [run for run in runs if run.setting("buffer.size") == "900"])
    with pytest.raises(UserError, match="b: no run has finished"):
        compare([first, second])


def test_no_seed_in_common(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "er", 0)
    make_run(tmp_path / "b", "derpp", 1)
    with pytest.raises(UserError, match="no two runs of one seed and class order have average"):
        compare(arms(tmp_path, "model=er", "model=derpp"))


@pytest.mark.parametrize("dataset", [{"name": "other"}, {"n_tasks": 10}, {"validation": 0.1}])
def test_benchmarks_are_not_compared(tmp_path: Path, dataset: dict[str, Any]) -> None:
    make_run(tmp_path / "a", "er", 0)
    make_run(tmp_path / "b", "derpp", 0, config={"dataset": dataset})
    with pytest.raises(UserError, match="model=er and model=derpp: are of different benchmarks"):
        compare(arms(tmp_path, "model=er", "model=derpp"))


def test_the_metric_that_both_have(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"a{seed}", "er", seed, results={"average_accuracy": {"task_il": 0.5}})
        make_run(tmp_path / f"b{seed}", "hat", seed, results={"average_accuracy": {"task_il": 0.6}})
    (found,) = compare(arms(tmp_path, "model=er", "model=hat"))
    assert found.metric == "average_accuracy.task_il"
    make_run(tmp_path / "c", "x", 0, results={"average_accuracy": {}})
    with pytest.raises(UserError, match="have no average accuracy of one kind"):
        compare(arms(tmp_path, "model=er", "model=x"))
