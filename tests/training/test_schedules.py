"""Learning-rate schedules: how long they are, what is refused, and that each resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer, assert_same, without_clock
from torch.optim.lr_scheduler import ReduceLROnPlateau

import perdure
from perdure.checkpoint.core.encode import plain
from perdure.config.folder import options
from perdure.config.typed import typed
from perdure.datasets.streams import Length
from perdure.errors import UserError
from perdure.models.sgd import FineTuning
from perdure.tracking import events
from perdure.training.optim import SGD
from perdure.training.schedules import ReduceOnPlateau, Schedule, WarmupCosine, count
from perdure.training.settings import Settings
from perdure.training.state import Position, SaveContext, SavedCheckpoint
from perdure.training.trainer import Trainer

TORCH = "torch.optim.lr_scheduler"
SEQUENCE = {
    "_target_": f"{TORCH}.SequentialLR",
    "schedulers": [
        {"_target_": f"{TORCH}.LinearLR", "start_factor": 0.1, "total_iters": 2},
        {"_target_": f"{TORCH}.CosineAnnealingLR", "T_max": None},
    ],
    "milestones": [2],
}
CHAIN = {
    "_target_": f"{TORCH}.ChainedScheduler",
    "schedulers": [
        {"_target_": f"{TORCH}.ConstantLR", "factor": 0.5, "total_iters": 2},
        {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.9},
    ],
}


def of_file(option: str) -> dict[str, Any]:
    config = typed(perdure.compose(f"scheduler={option}", "optimizer.lr=0.1", "timestamp=now"))
    return dict(config.scheduler)


NODES: dict[str, Mapping[str, Any]] = {
    **{option: of_file(option) for option in options("scheduler") if option != "none"},
    "exponential": {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.9},
    "polynomial": {"_target_": f"{TORCH}.PolynomialLR", "total_iters": None},
    "restarts": {"_target_": f"{TORCH}.CosineAnnealingWarmRestarts", "T_0": 3},
    "cyclic": {"_target_": f"{TORCH}.CyclicLR", "base_lr": 0.01, "max_lr": 0.1,
               "cycle_momentum": False},
    "cosine without its length": {"_target_": f"{TORCH}.CosineAnnealingLR"},
    "one cycle with momentum": {"_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.2},
    "sequence": SEQUENCE,
    "chain": CHAIN,
}  # fmt: skip
FALLING = [name for name in NODES if name not in ("plateau", "multistep", "restarts", "cyclic")]


def train(make_trainer: MakeTrainer, name: str, **options: Any) -> list[tuple[int, float]]:
    """(task, learning rate) of every step of 3 tasks of some 31 batches each."""
    listener = Listener()
    make_trainer(
        FineTuning,
        scheduler=Schedule(NODES[name]),
        recorders=[listener],
        log_every=1,
        **options,
    ).fit()
    return [(event.task, event.lr) for event in listener.of(events.StepLog)]


LENGTHS: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 4},
    "steps": {"epochs": 2, "scheduler_per": "step"},
    "iterations, by epoch": {"iterations": 80},
    "iterations, by step": {"iterations": 45, "scheduler_per": "step"},
    "one epoch": {"iterations": 10},
    "kept, by epoch": {"epochs": 2, "reset_optimizer": False},
    "kept, by step": {"iterations": 20, "reset_optimizer": False, "scheduler_per": "step"},
    "kept, stopped early": {"epochs": 2, "reset_optimizer": False, "stop_after": 2},
    "joint": {"epochs": 4, "mode": "joint"},
    "joint, by step": {"iterations": 50, "mode": "joint", "scheduler_per": "step"},
}


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.filterwarnings("error")
def test_no_epoch_is_trained_at_zero(
    make_trainer: MakeTrainer, name: str, length: dict[str, Any]
) -> None:
    if name == "sequence" and length is LENGTHS["one epoch"]:
        with pytest.raises(UserError, match="nothing is left"):
            train(make_trainer, name, **length)
        return
    rates = [rate for _, rate in train(make_trainer, name, **length)]
    assert all(0 < rate <= 0.2 for rate in rates)


def test_a_cosine_falls_over_the_task_or_over_the_run(make_trainer: MakeTrainer) -> None:
    by_task = train(make_trainer, "cosine", iterations=20, scheduler_per="step")
    for task in range(3):
        rates = [rate for t, rate in by_task if t == task]
        # A step is logged with the rate it was made with.
        expected = [0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
        assert rates == pytest.approx(expected)
    options = {"iterations": 20, "scheduler_per": "step", "reset_optimizer": False}
    over_run = train(make_trainer, "cosine", **options)
    expected = [0.05 * (1 + math.cos(math.pi * step / 60)) for step in range(60)]
    assert [rate for _, rate in over_run] == pytest.approx(expected)
    stopped = train(make_trainer, "cosine", stop_after=2, **options)
    assert stopped == over_run[:40]


def test_by_epoch_it_follows_the_epochs_of_a_run_by_iterations(make_trainer: MakeTrainer) -> None:
    rates = [rate for task, rate in train(make_trainer, "cosine", iterations=80) if task == 0]
    # Task 0 has 37 batches an epoch: 80 steps are 3 epochs, the last of 6 steps.
    assert sorted(set(rates), reverse=True) == pytest.approx([0.1, 0.075, 0.025])


def test_what_is_typed_is_the_length(make_trainer: MakeTrainer) -> None:
    node = {"_target_": f"{TORCH}.CosineAnnealingLR", "T_max": 1000}
    trainer = make_trainer(scheduler=Schedule(node), scheduler_per="step")
    assert trainer.state.scheduler.T_max == 1000


def test_a_sequence_gives_each_part_what_is_left() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = Schedule(SEQUENCE)(optimizer, 12)
    assert scheduler._schedulers[1].T_max == 10
    with pytest.raises(UserError, match=r"scheduler\.milestones=\[2\]: nothing is left for "):
        Schedule(SEQUENCE)(optimizer, 2)


def test_warm_up_rises_and_falls() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler, rates = WarmupCosine(optimizer, 50, warmup=0.2, start=0.1), []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:11] == pytest.approx([0.04 + 0.036 * i for i in range(11)])
    assert rates[10] == max(rates)
    assert all(a > b > 0 for a, b in pairwise(rates[10:]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_lengths_are_of_the_whole_benchmark() -> None:
    lengths = [Length(10, 25, 3), Length(5, 5, 1)]
    for reset, per, expected in (
        (True, "epoch", [3, 1]),
        (True, "step", [25, 5]),
        (False, "epoch", [4, 4]),
        (False, "step", [30, 30]),
    ):
        settings = Settings(batch_size=1, reset_optimizer=reset, scheduler_per=per)  # type: ignore[arg-type]
        assert [count(lengths, task, settings) for task in (0, 1)] == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, True),
        ({"iterations": 5}, True),
        ({"epochs": 2}, False),
        ({"scheduler_per": "step"}, False),
        ({"reset_optimizer": False}, False),
    ],
)
def test_a_schedule_of_one_epoch_is_told(
    make_trainer: MakeTrainer, options: dict[str, Any], told: bool
) -> None:
    listener = Listener()
    make_trainer(scheduler=Schedule(NODES["cosine"]), recorders=[listener], **options).fit(["one"])
    (start,) = listener.of(events.RunStart)
    assert start.notices[0] == "one"
    assert any("learning rate is constant" in n for n in start.notices) == told


# --- plateau --------------------------------------------------------------------------------------


def test_a_plateau_is_followed_by_the_monitored_value(make_trainer: MakeTrainer) -> None:
    """Each look that is no better than the best so far, beyond patience, halves the rate."""
    listener = Listener()
    node = {**NODES["plateau"], "every": 1, "patience": 0, "factor": 0.5, "threshold": 0.0,
            "monitor": "accuracy.task_il"}  # fmt: skip
    make_trainer(
        FineTuning,
        scheduler=Schedule(node),
        recorders=[listener],
        epochs=8,
        evaluate_every=1,
        log_every=1,
    ).fit()
    reductions = 0
    for task in range(3):
        best, rate = -1.0, 0.1
        for epoch in range(8):
            logs = [e for e in listener.of(events.StepLog) if (e.task, e.epoch) == (task, epoch)]
            assert {log.lr for log in logs} == {rate}
            seen = [e for e in listener.of(events.Evaluation)
                    if (e.task, e.epoch) == (task, epoch + 1)]  # fmt: skip
            value = seen[0].accuracy["task_il"][-1]
            if value <= best:
                rate, reductions = rate / 2, reductions + 1
            best = max(best, value)
    assert reductions > 3


def test_evaluating_more_often_changes_nothing(make_trainer: MakeTrainer) -> None:
    node = {**NODES["plateau"], "every": 2, "patience": 0, "factor": 0.5}
    ends = []
    for evaluate_every in (1, 2):
        trainer = make_trainer(
            FineTuning, scheduler=Schedule(node), epochs=6, evaluate_every=evaluate_every
        )
        trainer.fit()
        ends.append(trainer.method.state_dict())
    assert_same(*ends)


def test_torch_s_own_plateau_follows_the_average_accuracy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        FineTuning,
        scheduler=lambda o: ReduceLROnPlateau(o, "max", patience=0),
        epochs=3,
        evaluate_every=1,
        stop_after=1,
    )
    results = trainer.fit()
    assert trainer.state.scheduler.last_epoch == 3
    assert trainer.state.scheduler.best >= results["accuracy_matrix"]["class_il"][0][0]


# --- what is refused ------------------------------------------------------------------------------


class Needy:
    """A scheduler of somebody's own, not derived from torch's."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None: ...

    def step(self, loss: float) -> None:
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("node", "options", "says"),
    [
        ({"_target_": f"{TORCH}.ReduceLROnPlateau"}, {"evaluate_every": 1}, "scheduler.mode=min"),
        (NODES["plateau"], {}, "give training.evaluate_every=1"),
        (
            NODES["plateau"],
            {"evaluate_every": 1, "evaluate_every_task": 2},
            "evaluate_every_task=2 with scheduler=plateau",
        ),
        (NODES["plateau"], {"evaluate_every": 1, "scheduler_per": "step"}, "follows evaluations"),
        ({**NODES["plateau"], "every": 3}, {"evaluate_every": 2}, "every=3: must be a multiple of"),
        (
            {**NODES["plateau"], "monitor": "loss"},
            {"evaluate_every": 1},
            r"scheduler.monitor=loss: must be one of average_accuracy.class_il, ",
        ),
        (
            {"_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.1, "total_steps": 2},
            {"iterations": 3, "scheduler_per": "step"},
            "scheduler.total_steps=2: the schedule is stepped 3 times",
        ),
        (
            {"_target_": f"{TORCH}.OneCycleLR", "max_lr": 0.1, "epochs": 1, "steps_per_epoch": 33},
            {"scheduler_per": "step"},
            r"scheduler.total_steps=33: the schedule is stepped 3\d times",
        ),
        ({**SEQUENCE, "schedulers": [1]}, {}, r"scheduler.schedulers\[0\]=1: must name a class"),
        ({**SEQUENCE, "schedulers": 1}, {}, r"scheduler.schedulers\[0\]=1: must name a class"),
        ({**SEQUENCE, "milestones": 2}, {}, "scheduler.milestones=2: must be a list"),
        ({**SEQUENCE, "milestones": [1, 2]}, {}, "must be one fewer than the 2 schedulers"),
        (SEQUENCE, {"epochs": 2}, "nothing is left for scheduler.schedulers.1. of the 2"),
        ({"_target_": SEQUENCE["_target_"]}, {}, "scheduler.schedulers is missing"),
        (
            {**CHAIN, "schedulers": [{"_target_": f"{TORCH}.ExponentialLR", "gamme": 1}]},
            {},
            r"scheduler.schedulers\[0\].gamme=1",
        ),
        (
            {**CHAIN, "schedulers": [NODES["plateau"]]},
            {"evaluate_every": 1},
            "scheduler: ChainedScheduler does not support",
        ),
        ({"_target_": f"{TORCH}.MultiStepLR", "milestones": 3}, {}, "must be a list"),
        ({"_target_": f"{TORCH}.LambdaLR"}, {}, "scheduler.lr_lambda is missing"),
        ({"_target_": f"{TORCH}.LambdaLR", "lr_lambda": "x"}, {}, "^scheduler"),
        ({"_target_": f"{TORCH}.StepLR", "step_size": 0}, {}, "^scheduler: "),
        (
            {"_target_": f"{TORCH}.ExponentialLR", "gamma": 0.9, "last_epoch": 3},
            {},
            "^scheduler: .*initial_lr",
        ),
        ({**NODES["warmup-cosine"], "warmup": 1.5}, {}, "scheduler.warmup=1.5: must be a fraction"),
        ({"_target_": f"{__name__}.Needy"}, {}, "Needy.step needs loss"),
        ({"_target_": "torch.nn.Linear"}, {}, "^scheduler"),
    ],
)
def test_what_the_loop_cannot_step_is_refused_before_training(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    node: dict[str, Any],
    options: dict[str, Any],
    says: str,
) -> None:
    from perdure.training import schedules

    found = schedules.locate
    monkeypatch.setattr(
        schedules, "locate", lambda path, g: Needy if path.endswith("Needy") else found(path, g)
    )
    with pytest.raises(UserError, match=says) as caught:
        make_trainer(scheduler=Schedule(node), **options)
    assert "\n" not in str(caught.value)


def _listen(make_trainer: MakeTrainer) -> Listener:
    listener = Listener()
    make_trainer(FineTuning, recorders=[listener]).fit()
    return listener


def test_a_schedule_that_fails_in_a_later_task_is_refused_before_the_first(
    make_trainer: MakeTrainer,
) -> None:
    n_first, *_, n_last = (e.steps for e in _listen(make_trainer).of(events.TaskStart))
    assert n_last < n_first
    node = {**SEQUENCE, "milestones": [n_last]}
    with pytest.raises(UserError, match="nothing is left for"):
        make_trainer(scheduler=Schedule(node), scheduler_per="step")


# --- resuming -------------------------------------------------------------------------------------


class InMemory:
    """Keeps the states at some global steps, as files hold them."""

    def __init__(self, at: tuple[int, ...]) -> None:
        self.at = at
        self.states: dict[int, dict[str, Any]] = {}

    def step_due(self, position: Position) -> bool:
        return position.global_step in self.at

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        file = BytesIO()
        torch.save(plain(state), file)
        file.seek(0)
        self.states[context.position.global_step] = torch.load(file, weights_only=True)

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None: ...

    def finish(self) -> None: ...


RESUMED = {
    "epochs": {"epochs": 4, "iterations": None, "scheduler_per": "epoch"},
    "steps": {"iterations": 45, "scheduler_per": "step"},
    "kept": {"iterations": 45, "scheduler_per": "step", "reset_optimizer": False},
}


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_each_resumes_exactly(
    make_trainer: MakeTrainer, name: str, options: dict[str, Any]
) -> None:
    if name == "plateau":
        options = {**options, "evaluate_every": 1, "scheduler_per": "epoch"}

    def trainer(keep: InMemory | None = None) -> Trainer:
        return make_trainer(
            FineTuning,
            scheduler=Schedule(NODES[name]),
            optimizer=lambda p: SGD(p, lr=0.1, momentum=0.9),
            stop_after=2,
            checkpoints=keep,
            **options,
        )

    keep = InMemory((7, 37, 60))  # in an epoch, at one's end, in a later epoch or task
    calm = trainer(keep)
    calm.fit()
    expected = without_clock(plain(calm.state_dict()))
    assert {7, 37, 60} <= keep.states.keys()
    for at in (7, 37, 60):
        resumed = trainer()
        resumed.load_state_dict(keep.states[at])
        resumed.fit()
        assert_same(without_clock(plain(resumed.state_dict())), expected, f"saved at step {at}")


def test_the_plateau_class_is_torch_s_but_for_what_it_follows() -> None:
    rates: list[list[float]] = []
    for kind in (ReduceOnPlateau, ReduceLROnPlateau):
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = kind(optimizer, mode="max", patience=1, threshold=0.01, threshold_mode="abs")
        rates.append([])
        for value in (0.1, 0.2, 0.2, 0.205, 0.3, 0.1, 0.1, 0.1):
            scheduler.step(value)
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 3
