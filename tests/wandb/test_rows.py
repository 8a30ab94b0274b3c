"""Lines of metrics.jsonl as rows of W&B: their order, their names, and what is left out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.wandb import rows

CLOCK = {"time": 1.0, "seconds": 2.0}


def step(at: int, **more: Any) -> dict[str, Any]:
    place = {"task": 0, "epoch": 0, "step": at, "global_step": at}
    return {"kind": "step", **place, "loss": 0.5, "lr": 0.1, "clock": CLOCK, **more}


def evaluation(at: int, **more: Any) -> dict[str, Any]:
    place = {"task": 0, "epoch": 1, "global_step": at, "boundary": True, "split": "test"}
    accuracy = {"class_il": [0.5, 1.0], "task_il": [1.0, 1.0]}
    return {"kind": "evaluation", **place, "accuracy": accuracy, "clock": CLOCK, **more}


def task(at: int, **more: Any) -> dict[str, Any]:
    return {"kind": "task", "task": 0, "global_step": at, "clock": CLOCK, **more}


def end(at: int) -> dict[str, Any]:
    return {"kind": "end", "global_step": at, "status": "finished", "clock": CLOCK}


MAKERS = (step, evaluation, task)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any file that a run may leave: at each step some of the kinds, always in the same order."""
    steps = draw(st.lists(st.integers(0, 10**9), unique=True, max_size=20).map(sorted))
    kinds = st.lists(st.sampled_from(range(len(MAKERS))), unique=True).map(sorted)
    lines = [MAKERS[kind](at) for at in steps for kind in draw(kinds)]
    return [*lines, end(steps[-1] if steps else 0)]


@given(histories())
def test_orders_grow_strictly_over_any_run(lines: list[dict[str, Any]]) -> None:
    sent = [row for line in lines if (row := rows.to_row(line)) is not None]
    assert len(sent) == len(lines) - 1
    orders = [row[rows.ORDER] for row in sent]
    assert all(a < b for a, b in pairwise(orders))
    last = lines[-1]["global_step"]
    assert all(order < rows.order("end", last) for order in orders)


@given(histories(), st.integers(0, 100))
def test_an_order_depends_on_the_row_alone(lines: list[dict[str, Any]], cut: int) -> None:
    whole = [rows.to_row(line) for line in lines]
    assert [rows.to_row(line) for line in lines[cut:]] == whole[cut:]


def test_a_step() -> None:
    clock = {"steps_per_second": 900.0, "cpu_seconds": 3.5, "peak_memory_mb": 400.0, "time": 9.9}
    assert rows.to_row(step(7, clock=clock)) == {
        "global_step": 7,
        "task": 0,
        "epoch": 0,
        "train/loss": 0.5,
        "train/lr": 0.1,
        "speed/steps_per_second": 900.0,
        "machine/cpu_seconds": 3.5,
        "machine/peak_memory_mb": 400.0,
        "order": 28,
    }


def test_an_evaluation() -> None:
    assert rows.to_row(evaluation(7)) == {
        "global_step": 7,
        "task": 0,
        "epoch": 1,
        "eval/class_il/task0/acc": 0.5,
        "eval/class_il/task1/acc": 1.0,
        "eval/class_il/avg_acc": 0.75,
        "eval/task_il/task0/acc": 1.0,
        "eval/task_il/task1/acc": 1.0,
        "eval/task_il/avg_acc": 1.0,
        "speed/evaluation_seconds": 2.0,
        "order": 29,
    }


def test_a_task() -> None:
    figures = {
        "average_accuracy": {"class_il": 0.9, "task_il": 1.0},
        "forgetting": {"class_il": 0.1, "task_il": None},
        "backward_transfer": {"class_il": -0.1},
        "forward_transfer": {"class_il": 0.2},
    }
    assert rows.to_row(task(7, **figures)) == {
        "global_step": 7,
        "task": 0,
        "after_task/class_il/avg_acc": 0.9,
        "after_task/task_il/avg_acc": 1.0,
        "after_task/class_il/forgetting": 0.1,
        "after_task/class_il/bwt": -0.1,
        "after_task/class_il/fwt": 0.2,
        "speed/task_seconds": 2.0,
        "order": 30,
    }


def test_the_end_is_no_measurement() -> None:
    assert rows.to_row(end(7)) is None


@pytest.mark.parametrize(
    ("line", "absent", "kept"),
    [
        pytest.param(step(1, loss=None), "train/loss", "train/lr", id="nan-loss"),
        pytest.param(task(1, forgetting=None), "after_task", "speed/task_seconds", id="figure"),
        pytest.param(
            evaluation(1, accuracy={"class_il": [None, 0.5]}),
            "eval/class_il/task0/acc",
            "eval/class_il/task1/acc",
            id="accuracy",
        ),
        pytest.param(
            evaluation(1, accuracy={"class_il": [None]}),
            "eval/class_il/avg_acc",
            "speed/evaluation_seconds",
            id="no-average-of-nothing",
        ),
    ],
)
def test_what_is_not_known_is_left_out(line: dict[str, Any], absent: str, kept: str) -> None:
    row = rows.to_row(line)
    assert row is not None
    assert not [key for key in row if key.startswith(absent)]
    assert kept in row
    assert None not in row.values()


def test_unknown_accuracies_do_not_count_in_the_average() -> None:
    row = rows.to_row(evaluation(1, accuracy={"class_il": [None, 0.5, 0.7]}))
    assert row is not None
    assert row["eval/class_il/avg_acc"] == pytest.approx(0.6)


def test_every_metric_has_an_axis_that_its_rows_have() -> None:
    for line in (step(1), evaluation(1), task(1, average_accuracy={"class_il": 1.0})):
        row = rows.to_row(line)
        assert row is not None
        for key in row.keys() - {"global_step", "task", "epoch", rows.ORDER}:
            assert rows.AXES[f"{key.split('/')[0]}/*"] in row


def test_the_summary_has_the_last_figures_and_the_best() -> None:
    results = {
        "status": "finished",
        "tasks_done": 2,
        "global_step": None,
        "average_accuracy": {"class_il": 0.6},
        "forgetting": {"class_il": None},
        "forward_transfer": None,
        "seconds": {"training": 1.5},
        "cpu_seconds": {"training": 1.25},
        "cost": {
            "parameters": {"trainable": 7},
            "bytes": {"total": 28},
            "exemplars": {"held": 0},
            "examples": {"trained": 10, "replayed": 5},
            "flops": 300,
            "step": {"flops": 30},
            "phases": [],
            "clock": {"peak_memory_bytes": 10**8},
        },
    }
    assert rows.summary(results, {"after_task/class_il/avg_acc": 0.8}) == {
        "status": "finished",
        "tasks_done": 2,
        "last/class_il/avg_acc": 0.6,
        "best/class_il/avg_acc": 0.8,
        "seconds/training": 1.5,
        "cpu_seconds/training": 1.25,
        "cost/parameters/trainable": 7,
        "cost/bytes/total": 28,
        "cost/exemplars/held": 0,
        "cost/examples/trained": 10,
        "cost/examples/replayed": 5,
        "cost/flops": 300,
        "cost/peak_memory_bytes": 10**8,
    }


def test_the_config_is_flat_and_says_at_the_top_what_people_filter_by() -> None:
    args = {
        "seed": 3,
        "model": {"name": "er", "needs_buffer": True},
        "buffer": {"size": 500, "_target_": "x.Reservoir"},
        "tracking": {"wandb": {"notes": "not of the experiment"}},
        "empty": {},
    }
    results = {
        "model": "er",
        "seed": 3,
        "buffer_size": 500,
        "status": "running",
        "environment": {"torch": "2.13"},
    }
    assert rows.flat_config(args, results) == {
        "seed": 3,
        "model/name": "er",
        "model/needs_buffer": True,
        "buffer/size": 500,
        "buffer/_target_": "x.Reservoir",
        "environment/torch": "2.13",
        "model": "er",
        "buffer_size": 500,
    }
