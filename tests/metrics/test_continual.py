"""The torchmetrics: their state, and that their values are `functional`'s."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import perdure
from perdure.metrics import functional
from perdure.metrics.continual import (
    AccuracyMatrix,
    AverageAccuracy,
    AverageAnytimeAccuracy,
    ContinualMetrics,
)

NAN = pytest.approx(math.nan, nan_ok=True)

# (evaluation, trained, boundary, [(task, correct, total), …]): untrained, then within and at the
# end of three tasks of 10, 20 and 5 examples.
RUN = [
    (0, -1, False, [(0, 1, 10), (1, 3, 20), (2, 1, 5)]),
    (1, 0, False, [(0, 7, 10), (1, 1, 20), (2, 0, 5)]),
    (2, 0, True, [(0, 9, 10), (1, 4, 20), (2, 1, 5)]),
    (3, 1, False, [(0, 3, 10), (1, 10, 20), (2, 1, 5)]),
    (4, 1, True, [(0, 6, 10), (1, 16, 20), (2, 2, 5)]),
    (5, 2, False, [(0, 4, 10), (1, 4, 20), (2, 3, 5)]),
    (6, 2, True, [(0, 5, 10), (1, 14, 20), (2, 5, 5)]),
]
MATRIX = [[9 / 10, 4 / 20, 1 / 5], [6 / 10, 16 / 20, 2 / 5], [5 / 10, 14 / 20, 5 / 5]]
# The same figures by hand, from MATRIX and RUN.
VALUES = {
    "average_accuracy": (0.5 + 0.7 + 1.0) / 3,
    "average_accuracy_over_examples": (5 + 14 + 5) / (10 + 20 + 5),
    "forgetting": ((0.9 - 0.5) + (0.8 - 0.7)) / 2,
    "backward_transfer": ((0.5 - 0.9) + (0.7 - 0.8)) / 2,
    "forward_transfer": ((0.2 - 3 / 20) + (0.4 - 1 / 5)) / 2,
    "average_anytime_accuracy": (0.7 + 0.9 + 0.4 + 0.7 + (0.4 + 0.2 + 0.6) / 3 + 2.2 / 3) / 6,
    "min_accuracy": (0.3 + 0.2) / 2,
    "worst_case_accuracy": 1 / 3 + 2 / 3 * (0.3 + 0.2) / 2,
}


def answers(correct: int, total: int) -> tuple[Tensor, Tensor]:
    target = torch.arange(total) % 7
    return target + (torch.arange(total) >= correct), target


def feed(metric: Any, run: Any = RUN, counted: bool = False) -> Any:
    for evaluation, trained, boundary, tasks in run:
        for task, correct, total in tasks:
            add = metric.add_counts if counted else metric.update
            arguments = (torch.tensor(correct), total) if counted else answers(correct, total)
            add(*arguments, task=task, evaluation=evaluation, trained=trained, boundary=boundary)
    return metric


feed_counts = partial(feed, counted=True)


def values(metrics: ContinualMetrics) -> dict[str, float]:
    computed = metrics.compute()
    computed.pop("accuracy_matrix")
    return {name: value.item() for name, value in computed.items()}


@pytest.mark.parametrize("entry", [feed, feed_counts], ids=["update", "add_counts"])
class TestValues:
    def test_by_hand(self, entry: Any) -> None:
        metrics = entry(ContinualMetrics(3))
        assert values(metrics) == pytest.approx(VALUES)
        assert metrics.compute()["accuracy_matrix"].tolist() == MATRIX
        assert metrics.matrix() == [row[: i + 1] for i, row in enumerate(MATRIX)]

    def test_collection_shares_one_state(self, entry: Any) -> None:
        metrics = entry(ContinualMetrics(3))
        assert len(metrics.compute_groups) == 1
        states = [m.correct.data_ptr() for m in metrics.values(copy_state=False)]
        assert len(states) == 9
        assert len(set(states)) == 1
        assert entry(AccuracyMatrix(3)).update_count == 21

    def test_neither_stale_nor_warning(self, entry: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            alone = entry(AverageAccuracy(3), RUN[:3])
            together = entry(ContinualMetrics(3), RUN[:3])
            assert alone.compute().item() == values(together)["average_accuracy"] == 0.9
            entry(alone, RUN[3:])
            assert alone.compute().item() == pytest.approx(VALUES["average_accuracy"])
            assert values(entry(together, RUN[3:])) == pytest.approx(VALUES)


def test_values_are_float64_scalars_on_the_cpu_and_nan_where_undefined() -> None:
    computed = feed(ContinualMetrics(3), [(0, 0, True, [(0, 9, 10)])]).compute()
    assert computed.pop("accuracy_matrix").tolist() == [[0.9, NAN, NAN]]
    defined = {
        "average_accuracy", "average_accuracy_over_examples", "average_anytime_accuracy",
        "worst_case_accuracy",
    }  # fmt: skip
    for name, value in computed.items():
        assert (value.dtype, value.shape, value.device.type) == (torch.float64, (), "cpu")
        assert value.isnan().item() is (name not in defined), name


def test_joint_run_is_one_row_of_all_tasks() -> None:
    metrics = feed(ContinualMetrics(3), [(0, 2, True, RUN[-1][3])])
    assert metrics.matrix() == [MATRIX[2]]
    defined = {n: v for n, v in values(metrics).items() if not math.isnan(v)}
    assert defined == {
        "average_accuracy": 2.2 / 3,
        "average_accuracy_over_examples": 24 / 35,
        "average_anytime_accuracy": 2.2 / 3,
    }


def test_evaluations_in_order_and_gaps_left_out() -> None:
    metric = feed(AccuracyMatrix(2), [(5, 1, True, [(1, 1, 2)]), (2, 0, False, [(0, 1, 4)])])
    assert metric.evaluations() == [
        (0, False, [0.25, NAN], [4, 0]),
        (1, True, [NAN, 0.5], [0, 2]),
    ]


def test_rows_are_the_latest_evaluation_at_the_end_of_each_task() -> None:
    metric = feed(AccuracyMatrix(3), RUN[:4])
    assert metric.matrix() == [[9 / 10]]
    assert feed(metric, [(4, 0, True, [(0, 3, 4)])]).matrix() == [[3 / 4]]


@pytest.mark.parametrize(
    "where",
    [(3, 0, 0), (-1, 0, 0), (0, 3, 0), (0, -2, 0), (0, 0, -1)],
    ids=["task", "task<0", "trained", "trained<-1", "evaluation<0"],
)
def test_places_out_of_range(where: tuple[int, int, int]) -> None:
    task, trained, evaluation = where
    with pytest.raises(ValueError, match="among 3 tasks"):
        AccuracyMatrix(3).add_counts(1, 2, task=task, trained=trained, evaluation=evaluation)


def test_updates_never_read_from_the_device() -> None:
    metrics = ContinualMetrics(3).to("meta")
    preds, target = (t.to("meta") for t in answers(3, 10))
    metrics.update(preds, target, task=0, evaluation=0, trained=0)
    metrics.add_counts((preds == target).sum(), 10, task=1, evaluation=1, trained=0)
    with pytest.raises(NotImplementedError, match="meta"):  # the test's own test
        metrics.compute()


class TestState:
    @pytest.mark.parametrize("held", [0, 2, 7], ids=["fresh", "fewer", "as many"])
    def test_state_dict_through_a_file_into_any_metric(self, held: int) -> None:
        file = io.BytesIO()
        torch.save(feed(ContinualMetrics(3), RUN[:6]).state_dict(), file)
        file.seek(0)
        metrics = feed(ContinualMetrics(3), RUN[:held])
        if held:
            metrics.compute()
        metrics.load_state_dict(torch.load(file, weights_only=True))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert values(metrics) == values(feed(ContinualMetrics(3), RUN[:6]))
            assert values(feed(metrics, RUN[6:])) == pytest.approx(VALUES)

    def test_loading_leaves_the_state_dict_to_its_owner(self) -> None:
        state = feed(AccuracyMatrix(3), RUN[:6]).state_dict()
        kept = copy.deepcopy(state)
        metric = AccuracyMatrix(3)
        metric.load_state_dict(state)
        feed(metric, RUN[:2])
        assert all(torch.equal(state[name], kept[name]) for name in kept)

    def test_state_that_does_not_fit_is_refused(self) -> None:
        state = feed(AccuracyMatrix(3)).state_dict()
        with pytest.raises(RuntimeError, match=r"of \{3\} tasks, not 4"):
            AccuracyMatrix(4).load_state_dict(state)
        del state["trained"]
        with pytest.raises(RuntimeError, match=r'Missing key.*"trained"'):
            AccuracyMatrix(3).load_state_dict(state)

    def test_reset(self) -> None:
        metrics = feed(ContinualMetrics(3))
        metrics.compute()
        metrics.reset()
        assert metrics.matrix() == []
        assert values(feed(metrics)) == pytest.approx(VALUES)

    def test_copies_live_on_their_own(self) -> None:
        metrics = feed(ContinualMetrics(3), RUN[:3])
        for twin in (copy.deepcopy(metrics), pickle.loads(pickle.dumps(metrics))):
            assert values(feed(twin, RUN[3:])) == pytest.approx(VALUES)
        assert metrics.matrix() == [[0.9]]

    def test_moves_between_devices(self) -> None:
        metric = feed(AccuracyMatrix(3)).to("meta")
        assert {state.device.type for state in metric.metric_state.values()} == {"meta"}
        metric.load_state_dict(feed(AccuracyMatrix(3)).state_dict())
        assert {state.device.type for state in metric.metric_state.values()} == {"meta"}

    def test_forward_gives_the_batch_and_keeps_the_total(self) -> None:
        metric = feed(AverageAnytimeAccuracy(3), RUN[:3])
        assert metric(*answers(1, 2), task=0, evaluation=1, trained=0).item() == 1 / 2
        expected = ((7 + 1) / (10 + 2) + 9 / 10) / 2
        assert metric.compute().item() == pytest.approx(expected)


def summed(parts: list[ContinualMetrics]) -> ContinualMetrics:
    """What a synchronization does to the states of several ranks."""
    for name, metric in parts[0].items(copy_state=False):
        for state in ("correct", "total"):
            total = torch.stack([getattr(part[name], state) for part in parts]).sum(0)
            setattr(metric, state, total)
    return parts[0]


def split(run: Any, share: Callable[[int], int]) -> tuple[Any, Any]:
    """The answers of one run dealt to two ranks; the first takes `share(total)` of each task."""
    first, second = [], []
    for *evaluation, counts in run:
        taken = [(j, min(c, s), s) for j, c, s in ((j, c, share(n)) for j, c, n in counts)]
        rest = [(j, c - t[1], n - t[2]) for (j, c, n), t in zip(counts, taken, strict=True)]
        first.append((*evaluation, taken))
        second.append((*evaluation, rest))
    return first, second


counts = st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
rows_of_counts = st.lists(st.lists(counts, min_size=3, max_size=3), min_size=6, max_size=6)


@settings(max_examples=25, deadline=None)
@given(rows_of_counts, st.data())
def test_values_are_functional_s_and_a_sum_over_ranks_is_the_whole(drawn: Any, data: Any) -> None:
    trained = [0, 0, 1, 1, 2, 2]
    rows = [[c / n for c, n in row] for row in drawn]
    tasks = [[(j, c, n) for j, (c, n) in enumerate(row)] for row in drawn]
    run = [(e, trained[e], e % 2 == 1, tasks[e]) for e in range(6)]
    whole = values(feed(ContinualMetrics(3), run))
    examples = [n for _, n in drawn[-1]]
    over = functional.average_accuracy_over_examples(rows[1::2], examples)
    assert whole["average_accuracy_over_examples"] == over
    assert over == pytest.approx(sum(c for c, _ in drawn[-1]) / sum(examples))
    for name in VALUES.keys() - {"forward_transfer", "average_accuracy_over_examples"}:
        within = name in ("average_anytime_accuracy", "min_accuracy", "worst_case_accuracy")
        function = getattr(functional, name)
        assert whole[name] == (function(rows, trained) if within else function(rows[1::2]))

    first, second = split(run, lambda total: data.draw(st.integers(0, total)))
    halves = [feed_counts(ContinualMetrics(3), part) for part in (first, second)]
    assert values(summed(halves)) == pytest.approx(whole, rel=0, abs=0, nan_ok=True)


def test_ranks_that_each_count_the_whole_test_set_change_nothing() -> None:
    whole = values(feed(ContinualMetrics(3)))
    assert values(summed([feed(ContinualMetrics(3)) for _ in range(3)])) == whole


TWO_RANKS = """
import json, sys
import torch.distributed as dist
from perdure.metrics.continual import ContinualMetrics

store, rank, run = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
metrics = ContinualMetrics(3)
metrics.compute()  # ranks that hold nothing yet
if rank == 0:
    metrics.add_counts(1, 2, task=0, evaluation=0, trained=-1, boundary=False)
untrained = metrics.evaluations()[0].trained
metrics.reset()
for evaluation, trained, boundary, tasks in run:
    for task, correct, total in tasks:
        where = dict(evaluation=evaluation, trained=trained, boundary=boundary)
        metrics.add_counts(correct, total, task=task, **where)
rows = len(metrics["accuracy_matrix"].trained)
for _ in range(2):  # the second time after the ranks' own states were restored
    result = {k: repr(v.tolist()) for k, v in metrics.compute().items()}
    metrics.add_counts(0, 0, task=0, evaluation=0, trained=-1, boundary=False)
print(json.dumps([untrained, rows, result, metrics.matrix()]))
dist.destroy_process_group()
"""


@pytest.mark.process
def test_two_processes_compute_exactly_what_one_does(tmp_path: Path) -> None:
    """Rank 1 holds a part of each task and no example of the last evaluation at all."""
    first, second = split(RUN[:-1], lambda total: total // 3)
    source = str(Path(perdure.__path__[0]).parent)
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", TWO_RANKS, str(tmp_path / "store")]
    ranks = []
    for rank, shard in enumerate([[*first, RUN[-1]], second]):
        words = [*command, str(rank), json.dumps(shard)]
        ranks.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [json.loads(process.communicate(timeout=120)[0]) for process in ranks]
    alone = feed(ContinualMetrics(3))
    expected = {k: repr(v.tolist()) for k, v in alone.compute().items()}
    assert outputs == [[-1, rows, expected, alone.matrix()] for rows in (7, 6)]


class Pads(TorchDispatchMode):
    """Counts copies of the state with rows to spare."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += func.overloadpacket.__name__ == "constant_pad_nd"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n_tasks", [5, 50])
def test_the_state_is_copied_once_an_evaluation(n_tasks: int) -> None:
    metrics = ContinualMetrics(n_tasks)
    with Pads() as pads:
        for evaluation in range(n_tasks):
            for task in range(evaluation + 1):
                metrics.add_counts(1, 2, task=task, evaluation=evaluation, trained=evaluation)
    assert pads.n == 4 * n_tasks  # correct, total, trained, boundary
