"""Probes: where they are made, of what, and that nothing of a run changes by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import Listener, MakeTrainer, assert_same, without_clock

from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.checkpoint.core.encode import plain
from perdure.config.schema import EvaluationConfig
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.icarl import ICaRL
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.training.probing import stratified

OFTEN = EvaluationConfig(probe_every=7, probe_size=12, first_batches=3)


def rows_of(make_trainer: MakeTrainer, method: Any = ER, **changes: Any) -> list[dict[str, Any]]:
    listener = Listener()
    make_trainer(method, recorders=[listener], **{"evaluation": OFTEN, **changes}).fit()
    return [event.row for event in listener.of(events.RawRow)]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(1, 60))
def test_a_stratified_set(labels: list[int], size: int) -> None:
    y = np.array(labels)
    rows = stratified(y, size)
    assert len(set(rows.tolist())) == len(rows)
    assert (np.sort(rows) == rows).all()
    counts, held = np.bincount(y[rows], minlength=7), np.bincount(y, minlength=7)
    classes = np.flatnonzero(held)
    assert (counts <= held).all()
    assert (counts[classes] >= 1).all()
    assert len(rows) <= max(size, len(classes))
    # As many of each class as of the others, as far as it has them.
    wanted = np.minimum(held[classes], size // len(classes))
    assert (counts[classes] >= wanted).all()
    assert (counts[classes] <= np.maximum(1, size // len(classes) + 1)).all()


def test_nothing_of_a_run_changes(make_trainer: MakeTrainer) -> None:
    ends = []
    for options in (None, OFTEN, EvaluationConfig(probe_every=1)):
        trainer = make_trainer(
            lambda network: DERpp(network, 0.5, 0.5),
            evaluation=options,
            epochs=2,
            evaluate_every=1,
        )
        results = trainer.fit()
        ends.append((without_clock(plain(trainer.state_dict())), without_clock(results)))
    for state, results in ends[1:]:
        assert_same(state, ends[0][0])
        assert_same(results, ends[0][1])


def test_where_probes_are_made(make_trainer: MakeTrainer) -> None:
    rows = rows_of(make_trainer, iterations=20)
    probes = [row for row in rows if row["kind"] == "probe"]
    of_first = [(p["global_step"], p["batch"], p["tasks"]) for p in probes if p["task"] == 0]
    assert of_first == [
        (0, 0, [0]), (1, 1, [0]), (2, 2, [0]), (3, 3, [0]), (7, None, [0]), (14, None, [0]),
        (20, None, [0]),
    ]  # fmt: skip
    of_second = [(p["global_step"], p["batch"], p["tasks"]) for p in probes if p["task"] == 1]
    assert of_second == [
        (20, 0, [1]), (21, 1, [0, 1]), (22, 2, [0, 1]), (23, 3, [1]), (28, None, [0, 1]),
        (35, None, [0, 1]), (40, None, [0, 1]),
    ]  # fmt: skip
    assert [p["global_step"] for p in probes if p["boundary"]] == [20, 40, 60]
    assert all((p["loss"] is None) == (p["batch"] in (None, 0)) for p in probes)
    incoming = [row["global_step"] for row in rows if row["kind"] == "incoming"]
    assert incoming == [0, 7, 14, 21, 28, 35, 42, 49, 56]


def test_a_probe_counts_what_an_evaluation_counts(make_trainer: MakeTrainer) -> None:
    """With a probe set of all examples."""
    listener = Listener()
    whole = EvaluationConfig(probe_every=10**6, probe_size=10**6, first_batches=0)
    trainer = make_trainer(recorders=[listener], evaluation=whole)
    trainer.fit()
    probes = [e.row for e in listener.of(events.RawRow) if e.row.get("boundary") is True]
    probes = [row for row in probes if row["kind"] == "probe"]
    ends = listener.of(events.Evaluation)
    assert len(probes) == len(ends) == 3
    for probe, end in zip(probes, ends, strict=True):
        for name, accuracy in end.accuracy.items():
            found = zip(probe["correct"][name], probe["total"], strict=True)
            assert [correct / total for correct, total in found] == accuracy


def test_the_batch_is_predicted_before_it_is_trained_on(make_trainer: MakeTrainer) -> None:
    """The first one by the untrained network."""
    trainer = make_trainer(FineTuning, iterations=1, stop_after=1)
    stream = []

    class Sees(FineTuning):
        def loss(self, batch: Any, *replay: Any) -> Any:
            stream.append((batch.x.clone(), batch.y.clone()))
            return super().loss(batch, *replay)

    rows = rows_of(make_trainer, Sees, iterations=1, stop_after=1)
    (row,) = [row for row in rows if row["kind"] == "incoming"]
    ((x, y),) = stream
    with torch.no_grad():
        scores = trainer.method.predict(x)[:, :4]
    assert row["correct"]["class_il"] == int((scores.argmax(1) == y).sum())
    assert row["total"] == len(y) == 10


def test_the_first_epoch_alone_is_a_stream(make_trainer: MakeTrainer) -> None:
    rows = rows_of(make_trainer, epochs=2)
    assert {row["epoch"] for row in rows if row["kind"] == "incoming"} == {0}
    probed = [row for row in rows if row["kind"] == "probe" and row["batch"] is not None]
    assert {row["epoch"] for row in probed} == {0}
    assert len(probed) == 3 * 4


@pytest.mark.parametrize("changes", [{"mode": "joint"}, {"evaluation": None}])
def test_where_there_are_none(make_trainer: MakeTrainer, changes: dict[str, Any]) -> None:
    rows = rows_of(make_trainer, FineTuning, **changes)
    assert {row["kind"] for row in rows} <= {"evaluation"}


def test_a_method_that_can_be_measured_at_task_ends_alone(make_trainer: MakeTrainer) -> None:
    class AtEnds(FineTuning):
        evaluable = "task end"

    assert {row["kind"] for row in rows_of(make_trainer, AtEnds)} == {"evaluation"}


def test_a_method_that_derives_what_it_predicts_with(make_trainer: MakeTrainer) -> None:
    buffer = Buffer(Herding(size=30, batch_size=10))
    rows = rows_of(make_trainer, ICaRL, buffer=buffer, iterations=10)
    probes = [row for row in rows if row["kind"] == "probe"]
    assert {row["batch"] for row in probes} == {None}
    assert [row["global_step"] for row in probes] == [7, 10, 14, 20, 21, 28, 30]
