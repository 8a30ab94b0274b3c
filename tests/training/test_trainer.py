"""The loop on few real images: what it does, in which order, and which events it emits."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer

from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import PermutedPixels
from perdure.distributed.control_flags import ControlFlags
from perdure.distributed.process_group import Ranks
from perdure.distributed.sharded_step import ShardedStep
from perdure.errors import DivergenceError, UserError
from perdure.models.base import Loss, Method
from perdure.models.er_ace import ERACE
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.training.evaluation import Evaluator
from perdure.training.optim import SGD
from perdure.training.recording import Launch, Recording
from perdure.training.saving import CheckpointHook
from perdure.training.state import SaveContext, SavedCheckpoint
from perdure.training.step import Step
from perdure.training.trainer import Trainer


def test_a_run_learns_and_measures(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    results = make_trainer(epochs=3, recorders=[listener]).fit()
    assert results["status"] == "finished"
    matrix = results["accuracy_matrix"]["class_il"]
    assert [len(row) for row in matrix] == [1, 2, 3]
    assert results["average_accuracy"]["class_il"] == pytest.approx(sum(matrix[-1]) / 3)
    assert results["average_accuracy"]["class_il"] > 0.5
    assert results["average_accuracy"]["task_il"] > results["average_accuracy"]["class_il"]
    assert [type(e) for e in listener.events[:2]] == [events.RunStart, events.TaskStart]
    assert isinstance(listener.events[-1], events.RunEnd)
    assert listener.of(events.TaskEnd)[-1].results["accuracy_matrix"] == results["accuracy_matrix"]


def test_steps_and_logs(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    trainer = make_trainer(recorders=[listener])
    results = trainer.fit()
    steps = sum(event.steps for event in listener.of(events.TaskStart))
    assert results["global_step"] == steps == trainer.position.global_step
    logged = [event.global_step for event in listener.of(events.StepLog)]
    assert logged == list(range(7, steps + 1, 7))


def test_iterations_instead_of_epochs(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    results = make_trainer(recorders=[listener], iterations=45).fit()
    assert results["global_step"] == 3 * 45


def test_logging_and_evaluating_more_often_changes_nothing(make_trainer: MakeTrainer) -> None:
    plain = make_trainer(epochs=2)
    plain.fit()
    busy = make_trainer(epochs=2, log_every=1, evaluate_every=1, evaluate_future=True)
    busy.fit()
    for name, value in plain.method.state_dict().items():
        assert torch.equal(value, busy.method.state_dict()[name]), name


def test_the_seed_decides(make_trainer: MakeTrainer) -> None:
    runs = [make_trainer(seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        run.fit()
    first, same, other = (run.method.backbone.head.weight for run in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_evaluation_within_tasks(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    make_trainer(epochs=4, evaluate_every=2, recorders=[listener]).fit()
    seen = [(e.task, e.epoch, e.boundary) for e in listener.of(events.Evaluation)]
    assert seen == [(t, e, b) for t in range(3) for e, b in ((2, False), (4, True))]


def test_future_tasks_give_forward_transfer(make_trainer: MakeTrainer) -> None:
    listener = Listener()
    results = make_trainer(evaluate_future=True, recorders=[listener]).fit()
    evaluations = listener.of(events.Evaluation)
    assert len(evaluations) == 4
    assert all(len(e.accuracy["task_il"]) == 3 for e in evaluations)
    initial, rows = evaluations[0].accuracy["task_il"], evaluations[1:]
    transfer = sum(rows[t - 1].accuracy["task_il"][t] - initial[t] for t in (1, 2)) / 2
    assert results["forward_transfer"]["task_il"] == pytest.approx(transfer)
    assert make_trainer().fit()["forward_transfer"]["task_il"] is None


def test_joint_training_has_one_row_of_all_tasks(make_trainer: MakeTrainer) -> None:
    joint = make_trainer(FineTuning, mode="joint", epochs=3).fit()
    assert [len(row) for row in joint["accuracy_matrix"]["class_il"]] == [3]
    assert joint["forgetting"]["class_il"] is None
    apart = make_trainer(FineTuning, epochs=3).fit()
    gain = joint["average_accuracy"]["class_il"] - apart["average_accuracy"]["class_il"]
    assert gain > 0.2


def test_stop_after(make_trainer: MakeTrainer) -> None:
    results = make_trainer(stop_after=2).fit()
    assert results["tasks_done"] == 2
    assert len(results["accuracy_matrix"]["class_il"]) == 2


def test_domain_incremental(make_trainer: MakeTrainer, few: Arrays) -> None:
    results = make_trainer(benchmark=PermutedPixels(few, 2, seed=1)).fit()
    assert list(results["accuracy_matrix"]) == ["domain_il"]


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_a_scheduler_moves_the_learning_rate(make_trainer: MakeTrainer, per: Any) -> None:
    listener = Listener()
    make_trainer(
        FineTuning,
        epochs=3,
        log_every=1,
        scheduler_per=per,
        scheduler=lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1], 0.1),
        recorders=[listener],
        stop_after=2,
    ).fit()
    rates = [(e.task, e.epoch, e.step, round(e.lr, 6)) for e in listener.of(events.StepLog)]
    for task in (0, 1):
        task_rates = [lr for t, _, _, lr in rates if t == task]
        assert set(task_rates) == {0.1, 0.01}
        n_large = sum(t == task and e == 0 for t, e, _, _ in rates) if per == "epoch" else 1
        assert task_rates.count(0.1) == n_large


def test_clipping_bounds_the_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        clip_norm=1e-3, iterations=1, stop_after=1, optimizer=lambda p: SGD(p, lr=1.0)
    )
    before = [p.detach().clone() for p in trainer.method.trainable()]
    trainer.fit()
    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(trainer.method.trainable(), before, strict=True)]
    )
    assert 0 < float(moved.detach().norm()) <= 1.001e-3


def test_bf16_trains(make_trainer: MakeTrainer) -> None:
    results = make_trainer(precision="bf16", epochs=3).fit()
    assert results["average_accuracy"]["class_il"] > 0.5


class Exploding(Method):
    """Its loss becomes NaN at the 20th step."""

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        self.steps = getattr(self, "steps", 0) + 1
        factor = float("nan") if self.steps == 20 else 1.0
        return batch.cross_entropy(self(batch.x)) * factor


def test_divergence_stops_with_a_sentence_and_is_never_saved(make_trainer: MakeTrainer) -> None:
    listener, kept = Listener(), Kept()
    trainer = make_trainer(Exploding, recorders=[listener], checkpoints=kept)
    with pytest.raises(DivergenceError, match=r"training diverged.*by step 20 .*task 0"):
        trainer.fit()
    end = listener.events[-1]
    assert isinstance(end, events.RunEnd)
    assert end.results["status"] == "failed"
    assert "diverged" in (end.error or "")
    assert kept.states == []


@pytest.mark.parametrize("evaluate_every", [None, 1])
@pytest.mark.parametrize(
    ("method", "lr"),
    [
        pytest.param(Exploding, 0.1, id="loss"),
        pytest.param(FineTuning, float("inf"), id="infinite-rate"),
        pytest.param(FineTuning, 1e30, id="large-rate"),
    ],
)
def test_divergence_is_noticed_without_a_folder_by_the_end_of_its_task(
    make_trainer: MakeTrainer, method: type[Method], lr: float, evaluate_every: int | None
) -> None:
    """However seldom the loss is read; nothing is measured of a diverged network."""
    listener = Listener()
    trainer = make_trainer(
        method,
        optimizer=lambda p: SGD(p, lr=lr),
        log_every=10**6,
        epochs=2,
        evaluate_every=evaluate_every,
        recorders=[listener],
    )
    with pytest.raises(DivergenceError, match=r"training diverged.*\(task 0"):
        trainer.fit()
    assert listener.of(events.Evaluation) == []
    assert listener.events[-1].results["status"] == "failed"


def test_a_weight_that_diverges_in_the_last_step_of_a_run_is_noticed(
    make_trainer: MakeTrainer,
) -> None:
    """Its loss is finite: that was computed before the step."""
    trainer = make_trainer(
        FineTuning,
        optimizer=lambda p: SGD(p, lr=float("inf")),
        iterations=1,
        stop_after=1,
        log_every=10**6,
    )
    with pytest.raises(DivergenceError, match="training diverged"):
        trainer.fit()


class Kept:
    """Saves checkpoints in memory, at every 20th step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.finished = False

    def step_due(self, position: Any) -> bool:
        return position.global_step % 20 == 0

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        self.states.append(state)

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None:
        return None

    def finish(self) -> None:
        self.finished = True


def test_an_unexpected_error_leaves_results_that_say_failed(make_trainer: MakeTrainer) -> None:
    class Broken(FineTuning):
        def loss(self, batch: Batch, *replay: Batch) -> Loss:
            raise RuntimeError("out of luck")

    listener = Listener()
    with pytest.raises(RuntimeError, match="out of luck"):
        make_trainer(Broken, recorders=[listener]).fit()
    assert listener.events[-1].results["status"] == "failed"
    assert listener.events[-1].error == "RuntimeError: out of luck"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"buffer": None}, "ER replays from a buffer", id="no-buffer"),
        pytest.param({"method": ERACE, "mode": "joint"}, "cannot train jointly", id="joint"),
        pytest.param({"stop_after": 4}, "has 3 tasks", id="stop-after"),
        pytest.param({"batch_size": 0}, "batch_size=0", id="batch-size"),
        pytest.param({"epochs": 1.5}, "epochs=1.5: must be an integer, 1 or more", id="epochs"),
        pytest.param({"clip_norm": -1.0}, "clip_norm=-1", id="clip"),
        pytest.param({"precision": "fp8"}, "precision=fp8: must be one of fp32, bf16", id="choice"),
        pytest.param(
            {"precision": "fp16", "parallel": "fsdp"}, "use training.precision=bf16", id="precision"
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    make_trainer: MakeTrainer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trainer(**changes)


def test_a_method_for_other_scenarios_is_refused(make_trainer: MakeTrainer, few: Arrays) -> None:
    with pytest.raises(UserError, match="defined for class-incremental"):
        make_trainer(ERACE, benchmark=PermutedPixels(few, 2))


@pytest.mark.parametrize(
    "kind", [Trainer, Step, Evaluator, CheckpointHook, ShardedStep, ControlFlags, Recording, Launch]
)
def test_a_part_takes_at_most_eight_parameters(kind: type) -> None:
    assert 1 <= len(inspect.signature(kind).parameters) <= 8


def test_a_trainer_is_complete_when_built(make_trainer: MakeTrainer) -> None:
    """Every argument has arrived at the parts before anything trains."""
    listener, kept, ranks = Listener(), Kept(), Ranks()
    trainer = make_trainer(recorders=[listener], checkpoints=kept, ranks=ranks, facts={"a": 1})
    assert trainer.saving.checkpoints is kept
    assert trainer.state.recorders == [listener]
    assert trainer._step.control.ranks is ranks
    assert trainer._step.control.time_due == kept.time_due
    assert trainer.state.summary()["a"] == 1
    trainer.fit(notices=("once",))
    assert listener.events[0].notices == ("once",)  # type: ignore[union-attr]
    assert kept.finished
