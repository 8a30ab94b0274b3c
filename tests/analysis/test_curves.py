"""Groups of runs and their curves over tasks, against numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.analysis import curves
from perdure.analysis.curves import Group, Spread, groups_of, matrix, quartiles, scenarios_of
from perdure.analysis.runs import Run, read
from perdure.errors import UserError
from perdure.metrics.functional import forgetting

ROWS = [[0.8], [0.6, 0.9], [0.7, 0.3, 1.0]]


def test_curves_of_a_matrix_by_hand() -> None:
    assert curves.average_accuracy(ROWS) == pytest.approx([0.8, 0.75, 2.0 / 3])
    assert curves.forgetting(ROWS) == pytest.approx([0.1, 0.6])
    assert curves.retention(ROWS) == pytest.approx([0.875, 1 / 3, 1.0])
    assert sum(curves.forgetting(ROWS)) / 2 == pytest.approx(forgetting(ROWS))  # type: ignore[arg-type]


def test_what_was_not_measured_is_a_gap() -> None:
    rows = [[None], [0.5, None], [0.25, 0.5, 0.0]]
    assert curves.average_accuracy(rows) == [None, None, 0.25]
    assert curves.forgetting(rows) == [0.25, None]
    assert curves.retention(rows) == [None, None, None]  # never measured, or never known
    assert curves.forgetting([[0.5]]) == curves.retention([[0.5]]) == []


def test_groups_are_what_varies_but_the_seed(sweep: Path) -> None:
    groups = groups_of(read([sweep]))
    assert [(g.name, [r.seed for r in g.runs]) for g in groups] == [
        ("er", ["0", "1"]), ("derpp", ["0", "1"]),
    ]  # fmt: skip
    assert all(group.only_seeds for group in groups)
    assert curves.repeats(groups) == "2 seeds"


def test_groups_by_keys_and_what_their_names_say(
    tmp_path: Path, make_run: Callable[..., Path]
) -> None:
    for job, size in enumerate((200, 500)):
        typed = (f"buffer.size={size}", "training=joint") if job else (f"buffer.size={size}",)
        make_run(tmp_path / str(job), typed=typed, config={"buffer": {"size": size}})
    make_run(tmp_path / "2", status="interrupted")
    runs = read([tmp_path])
    by_all, by_model = groups_of(runs), groups_of(runs, ["model"])
    assert [g.name for g in by_all] == ["buffer 200", "buffer 500, trained jointly"]
    assert [(g.name, len(g.runs)) for g in by_model] == [("er", 2)]
    assert curves.repeats(by_model) == "2 runs"  # they differ in more than the seed
    assert [g.name for g in groups_of(runs[:1])] == ["er"]
    with pytest.raises(UserError, match="--by sead: no run has this key"):
        groups_of(runs, ["sead"])


def test_the_spread_of_a_curve(sweep: Path) -> None:
    er, _ = groups_of(read([sweep]))
    at = curves.spreads(er, "class_il", curves.average_accuracy)
    # After task 2: (0.9 + 0.6 + 0.3) / 3 = 0.6 and (0.9 + 0.65 + 0.4) / 3 = 0.65.
    assert at[0] == Spread(2, pytest.approx(0.9), pytest.approx(0.0, abs=1e-9))
    assert at[2] == Spread(2, pytest.approx(0.625), pytest.approx(0.05 / 2**0.5))
    assert curves.final_accuracy(er, "class_il") == at[2]
    assert curves.spread([]) is None
    assert curves.spread([0.5]) == Spread(1, 0.5, None)


@pytest.mark.parametrize(
    "odd",
    [None, 3, [], {"class_il": 3}, {"class_il": [3]}, {"class_il": [[0.5], [0.5]]}],
    ids=str,
)
def test_a_matrix_that_is_none_counts_as_not_measured(odd: Any) -> None:
    run = Run(Path("x"), "finished", results={"accuracy_matrix": odd})
    assert matrix(run, "class_il") == ()
    assert scenarios_of([Group("all", (run,))]) == []


def test_values_that_are_no_accuracies_are_gaps() -> None:
    rows = [["x"], [True, 1.5], [-1, None, 0.25]]
    run = Run(Path("x"), "finished", results={"accuracy_matrix": {"class_il": rows}})
    assert matrix(run, "class_il") == [[None], [None, None], [None, None, 0.25]]


def test_quartiles_are_interpolated() -> None:
    assert quartiles([4.0, 1.0, 3.0, 2.0]) == (1.75, 2.5, 3.25)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("orders", "scenario", "n"),
    [
        (["random", "random"], "class-incremental", 2),  # drawn from dataset.seed
        ([None, None], "class-incremental", 1),  # the data set's own
        ([None, None], "domain-incremental", 2),  # permutations are drawn
        ([[0, 1, 2], [2, 1, 0]], "class-incremental", 2),
        ([[0, 1, 2], [0, 1, 2]], "class-incremental", 1),
    ],
    ids=["random", "own", "domains", "lists", "one-list"],
)
def test_values_of_class_orders(
    tmp_path: Path, make_run: Callable[..., Path], orders: list[Any], scenario: str, n: int
) -> None:
    for seed, order in enumerate(orders):
        dataset = {"name": "d", "seed": seed, "class_order": order}
        make_run(tmp_path / str(seed), seed=seed, config={"dataset": dataset}, scenario=scenario,
                 average_accuracy={"class_il": 0.2 + 0.2 * seed})  # fmt: skip
    (group,) = groups_of(read([tmp_path]))
    values = curves.by_order(group, "class_il")
    assert values == pytest.approx([0.3] if n == 1 else [0.2, 0.4])


def test_results_survive_json(sweep: Path) -> None:
    """What is read is what was written."""
    results = json.loads((sweep / "0" / "results.json").read_text())
    assert matrix(read([sweep])[0], "class_il") == results["accuracy_matrix"]["class_il"]
