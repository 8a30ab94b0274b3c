"""Checks for leaks: test batches, task identity, the future, the test set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from perdure.audit.exactness import Saved, differences, kept
from perdure.audit.guard import guarded
from perdure.audit.outcome import FindingError, InapplicableError
from perdure.audit.run import WatchedRun, choices
from perdure.audit.trial import Trial

_ROUNDING = 1e-4
"""By how much of its size a score may differ for an example that is computed in another batch."""


def test_batches(trial: Trial, run: WatchedRun) -> str:
    """Predictions must be those of each example, whatever is measured beside it."""
    n = 0
    for task, raw in _tests(trial, run):
        order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(task or 0))
        reference = choices(run, trial.transform, raw, task, [len(raw)])
        shuffled = choices(run, trial.transform, raw[order], task, [len(raw)])
        _require_alike(reference, _undone(shuffled, order), "the test set is shuffled")
        others = choices(run, trial.transform, raw[order], task, [7, 3, 19])
        _require_alike(reference, _undone(others, order), "it comes in batches of 7, 3 and 19")
        single = choices(run, trial.transform, raw, task, [1])
        _require_alike(reference, single, "examples come one by one")
        n += len(raw)
    return f"{n} test examples shuffled, in batches of 7, 3 and 19, and one by one"


def task_identity(trial: Trial, run: WatchedRun) -> str:
    """Predictions of a task's examples must be the same among those of all tasks."""
    method, benchmark = run.trainer.method, trial.benchmark
    if method.needs_task_id:
        raise InapplicableError("the method declares needs_task_id; its class-IL accuracy is null")
    if benchmark.n_tasks == 1:
        raise InapplicableError("the benchmark has one task")
    tests = [benchmark.evaluation(task).x for task in range(benchmark.n_tasks)]
    each = [choices(run, trial.transform, raw, None, [32]) for raw in tests]
    by_task = torch.cat([scores for scores, _ in each]), torch.cat([labels for _, labels in each])
    raw = torch.cat(tests)
    order = torch.randperm(len(raw), generator=torch.Generator().manual_seed(1))
    mixed = choices(run, trial.transform, raw[order], None, [32])
    _require_alike(by_task, _undone(mixed, order), "the tasks are mixed")
    return f"{len(raw)} test examples of {len(tests)} tasks, by task and mixed"


def future_classes(trial: Trial, run: WatchedRun) -> str:
    """What the later tasks are, or the later part of a stream, must not matter before it comes."""
    if not trial.whole.boundaries:
        return _same_first_half(trial)
    *first, a, b = _enough(trial)
    return _same_start(trial, (*first, b, a), len(first), "the last two tasks are swapped")


def number_of_tasks(trial: Trial, run: WatchedRun) -> str:
    """How many tasks follow must not matter, unless the method or its buffer says so."""
    if run.trainer.method.needs_n_tasks:
        raise InapplicableError("the method declares needs_n_tasks")
    if trial.policy_takes("n_tasks"):
        raise InapplicableError(f"buffer={trial.config.buffer['_target_']} takes n_tasks")
    *first, a, b = _enough(trial)
    # A schedule over the whole run follows the number of tasks, and is not the method's.
    constant = replace(trial, config=replace(trial.config, scheduler=None))
    merged = (*first, (*a, *b))
    return _same_start(constant, merged, len(first), "the last two tasks are one")


def number_of_classes(trial: Trial, run: WatchedRun) -> str:
    """The method's own code must not read the number of classes unless it says so."""
    if run.trainer.method.needs_n_classes:
        raise InapplicableError("the method declares needs_n_classes")
    replace(trial, around=guarded).trainer().fit()
    return "no access to backbone.n_classes in a whole run"


def test_set(trial: Trial, run: WatchedRun) -> str:
    """Training must not follow from test examples: not by learning, selection or tuning."""
    if trial.whole.split != "test":
        raise InapplicableError("accuracy is measured on held-out training examples")
    other = replace(trial, other_test=True).trainer()
    other.fit()
    expected = kept(run.trainer.state_dict())
    for path in differences(kept(other.state_dict()), expected, ""):
        raise FindingError(
            f"{path.removeprefix('.')} is another at the end when the test examples are others"
        )
    return "the same weights and memory with inverted test images and wrong test labels"


def _enough(trial: Trial) -> tuple[tuple[int, ...], ...]:
    if len(trial.groups) < 3:
        raise InapplicableError(f"the benchmark has {len(trial.groups)} tasks; 3 are needed")
    return trial.groups


def _same_start(trial: Trial, groups: tuple[tuple[int, ...], ...], tasks: int, change: str) -> str:
    """The states after the first tasks are the same with other tasks behind them."""
    states = []
    for each in (trial.groups, groups):
        saved = Saved()
        replace(trial, groups=each).trainer(saved, stop_after=None).fit()
        states.append(kept(saved.state(saved.ended[tasks - 1])))
    for path in differences(states[1], states[0], ""):
        raise FindingError(
            f"{path.removeprefix('.')} is another after task {tasks - 1} when {change} later"
        )
    return f"the same state after task {tasks - 1} when {change} later"


def _same_first_half(trial: Trial) -> str:
    """The state in the middle of a stream is the same with other examples behind it."""
    n, states = trial.benchmark.n_train(0), []
    step = n // 2 // trial.config.dataset.batch_size
    for other in (False, True):
        saved = Saved()
        replace(trial, other_tail=other).trainer(saved).fit()
        states.append(kept(saved.state(step - 1)))
    for path in differences(states[1], states[0], ""):
        raise FindingError(
            f"{path.removeprefix('.')} is another after step {step} when the second half of the "
            "stream is another"
        )
    return f"the same state after step {step} when the second half of the stream is another"


def _tests(trial: Trial, run: WatchedRun) -> list[tuple[int | None, Tensor]]:
    """The raw test examples, together, or by task where the method needs to know it."""
    benchmark = trial.benchmark
    each = [benchmark.evaluation(task).x for task in range(benchmark.n_tasks)]
    if run.trainer.method.needs_task_id:
        return list(enumerate(each))
    return [(None, torch.cat(each))]


def _undone(found: tuple[Tensor, Tensor], order: Tensor) -> tuple[Tensor, Tensor]:
    place = order.argsort()
    return found[0][place], found[1][place]


def _require_alike(
    expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], when: str
) -> None:
    """The same choices, but for such as rounding decides.

    Raises:
        FindingError: says how many differ.
    """
    (scores, choice), (_, other) = expected, found
    best = scores.gather(1, choice[:, None])
    chosen = scores.gather(1, other[:, None])
    worse = (best - chosen) > _ROUNDING * (1 + best.abs())
    if n := int(worse.sum()):
        raise FindingError(f"{n} of {len(choice)} predictions are others when {when}")
