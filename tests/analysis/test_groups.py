"""Which runs are of one setting, and how their repetitions are counted."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from runs_of import make_run

from perdure.analysis.groups import (
    Spread,
    grouped,
    metrics_of,
    require_metrics,
    spread_of,
    tuning_note,
)
from perdure.analysis.runs import read, read_run
from perdure.errors import UserError


def test_what_varies_makes_the_groups(tmp_path: Path) -> None:
    job = 0
    for model in ("er", "derpp"):
        for size in (200, 500):
            for seed in (0, 1):
                make_run(
                    tmp_path / str(job), model, seed, f"buffer.size={size}",
                    config={"buffer": {"size": size}}, accuracy=0.1 * job,
                )  # fmt: skip
                job += 1
    groups = grouped(read([tmp_path]))
    assert [group.name for group in groups] == [
        "model=er buffer.size=200", "model=er buffer.size=500",
        "model=derpp buffer.size=200", "model=derpp buffer.size=500",
    ]  # fmt: skip
    assert groups[1].values("average_accuracy.class_il") == pytest.approx(
        {("0", "0"): 0.2, ("1", "1"): 0.3}
    )
    with pytest.raises(
        UserError, match=r"model=er: its runs differ in buffer.size too \(200, 500\)"
    ):
        grouped(read([tmp_path]), by=["model"])
    pooled = grouped(read([tmp_path]), by=["model"], over=["buffer.size"])
    assert [len(group.runs) for group in pooled] == [4, 4]
    assert [group.n_seeds for group in grouped(read([tmp_path]), over=["buffer.size"])] == [4, 4]


def test_what_was_not_typed_is_not_pooled(tmp_path: Path) -> None:
    """Two sweeps typed alike, with another learning rate in a file."""
    for seed in (0, 1):
        make_run(tmp_path / f"a{seed}", "er", seed)
        make_run(tmp_path / f"b{seed}", "er", seed, config={"optimizer": {"lr": 0.2}})
    assert [group.name for group in grouped(read([tmp_path]))] == [
        "optimizer.lr=0.1", "optimizer.lr=0.2",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"all runs: its runs differ in optimizer.lr too"):
        grouped(read([tmp_path]), by=[])


@pytest.mark.parametrize("value", [1, 1.5, "1", None, [0, 1], True])
def test_any_kind_of_value_tells_runs_apart(tmp_path: Path, value: Any) -> None:
    make_run(tmp_path / "a", "er", 0, config={"optimizer": {"lr": 0.1}})
    make_run(tmp_path / "b", "er", 0, config={"optimizer": {"lr": value}})
    assert len(grouped(read([tmp_path]))) == 2


def test_an_option_is_called_by_its_group(tmp_path: Path) -> None:
    """Where the group's name tells the runs apart; else the key itself."""
    make_run(tmp_path / "a", "er", 0, config={"scheduler": {"_target_": "x.A"}})
    make_run(tmp_path / "b", "er", 0, config={"scheduler": {"_target_": "x.B"}})
    names = [group.name for group in grouped(read([tmp_path]))]
    assert names == ["scheduler._target_=x.A", "scheduler._target_=x.B"]
    make_run(tmp_path / "c", "mine", 0, config={"scheduler": {"_target_": "x.B"}})
    path = tmp_path / "c" / ".hydra" / "overrides.yaml"
    path.write_text("[]")
    assert [*grouped(read([tmp_path]))[2].setting] == ["model", "scheduler._target_"]


def test_a_shorter_run_is_another_setting(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "er", 0)
    make_run(tmp_path / "b", "er", 1, config={"dataset": {"stop_after": 2, "seed": 1}})
    make_run(tmp_path / "c", "er", 2, config={"tracking": {"console": "off"}})
    groups = grouped(read([tmp_path]))
    assert [len(group.runs) for group in groups] == [2, 1]
    assert [*groups[1].setting] == ["dataset.stop_after"]


def test_a_branch_is_another_setting_than_a_whole_run(tmp_path: Path) -> None:
    def resumed(fork: bool) -> dict[str, Any]:
        return {"resumes": ["x", {"fork": fork, "model": "er", "task": 3, "from": "a/b_2.pt"}]}

    make_run(tmp_path / "a", "derpp", 0)
    make_run(tmp_path / "b", "derpp", 1, results=resumed(fork=False))
    make_run(tmp_path / "c", "derpp", 0, results=resumed(fork=True))
    groups = grouped(read([tmp_path]))
    assert [group.name for group in groups] == ["branch=", "branch=er before task 3"]
    assert [len(group.runs) for group in groups] == [2, 1]


def test_runs_that_have_not_finished_and_repeated_ones(tmp_path: Path) -> None:
    make_run(tmp_path / "1", "er", 0, accuracy=0.1)
    make_run(tmp_path / "2", "er", 0, accuracy=0.2)
    make_run(tmp_path / "3", "er", 1, results={"status": "failed"})
    (group,) = grouped(read([tmp_path]))
    assert group.values("average_accuracy.class_il") == {("0", "0"): 0.2}
    assert group.repeated == 1
    assert grouped([]) == []


def test_an_unknown_key(tmp_path: Path) -> None:
    make_run(tmp_path, "er", 0)
    with pytest.raises(UserError, match=r"--by buffer.sizes: .* \(did you mean buffer.size\?\)"):
        grouped(read([tmp_path]), by=["buffer.sizes"])
    groups = grouped(read([tmp_path]), by=["dataset.stop_after", "model"][1:])
    assert groups[0].name == "model=er"
    require_metrics(groups, metrics_of(groups))
    with pytest.raises(UserError, match=r"did you mean cost.bytes\?"):
        require_metrics(groups, ["cost.byte"])


# --- seeds and orders -----------------------------------------------------------------------------


def test_seeds_and_orders_are_told_apart(tmp_path: Path) -> None:
    values = {(0, 0): 0.50, (0, 1): 0.52, (1, 0): 0.70, (1, 1): 0.76}
    for (order, seed), accuracy in values.items():
        make_run(
            tmp_path / f"{order}{seed}", "er", seed, f"dataset.seed={order}", accuracy=accuracy,
            config={"dataset": {"seed": order, "class_order": "random"}},
        )  # fmt: skip
    (group,) = grouped(read([tmp_path]))
    assert (len(group.runs), group.n_seeds, group.n_orders) == (4, 2, 2)
    spread = group.spread("average_accuracy.class_il")
    assert spread is not None
    within = ((stdev([0.50, 0.52]) ** 2 + stdev([0.70, 0.76]) ** 2) / 2) ** 0.5
    assert spread.seeds == pytest.approx(within)
    assert spread.orders == pytest.approx(stdev([0.51, 0.73]))
    assert spread.std == pytest.approx(stdev(values.values()))
    assert spread.mean == pytest.approx(mean(values.values()))


def test_one_order_whatever_the_seed_of_the_benchmark(tmp_path: Path) -> None:
    """`dataset.seed` follows the seed, and draws no order where none is asked for."""
    for seed in (0, 1):
        make_run(tmp_path / str(seed), "er", seed)
    (group,) = grouped(read([tmp_path]))
    assert (group.n_seeds, group.n_orders) == (2, 1)
    spread = group.spread("average_accuracy.class_il")
    assert spread is not None
    assert spread.orders is None


def test_spreads_of_few() -> None:
    assert spread_of([("x", 0.5)]) == Spread(1, 0.5, None)
    assert spread_of([("x", 0.5), ("y", 0.7)]).orders is None  # each order has one seed


# --- budgets --------------------------------------------------------------------------------------


def tuned(folder: Path, seed: int, model: str, content: Any) -> None:
    make_run(folder / "scored" / f"seed-{seed}", model, seed)
    (folder / "tune.json").write_text(json.dumps(content))


def test_tuning_budgets_are_stated(tmp_path: Path) -> None:
    for seed in (0, 1):
        tuned(tmp_path / "a", seed, "er", {"trials_run": 16, "tune_seeds": [0], "on": "seq-fmnist"})
        tuned(tmp_path / "b", seed, "si", {"trials_run": 4, "tune_seeds": [0, 1], "on": "x"})
    assert tuning_note(grouped(read([tmp_path]))) == (
        "Tuning budgets are unequal: model=er: 16 trials on seq-fmnist; "
        "model=si: 4 trials, 8 runs on x."
    )
    assert tuning_note(grouped(read([tmp_path / "a"]))) == (
        "Tuning budgets: all: 16 trials on seq-fmnist."
    )
    make_run(tmp_path / "c" / "0", "sgd", 0)
    assert tuning_note(grouped(read([tmp_path]))).endswith("model=sgd: not stored.")
    assert tuning_note(grouped(read([tmp_path / "c"]))) == ""


@pytest.mark.parametrize("content", [[], {"trials_run": "9", "on": "x"}, {"trials_run": 3}])
def test_a_foreign_tune_json_says_nothing(tmp_path: Path, content: Any) -> None:
    tuned(tmp_path, 0, "er", content)
    assert read_run(tmp_path / "scored" / "seed-0").tuning == ""
