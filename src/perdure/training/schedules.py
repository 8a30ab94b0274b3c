"""Learning-rate schedules: how long one is, warm-up, plateau, and those made of several.

A schedule is as long as what it counts: the epochs or steps (`training.scheduler_per`) of its task,
or of all tasks of the benchmark where the optimizer is kept (`training.reset_optimizer=false`).
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from perdure.config.build import check, locate
from perdure.config.schema import Per
from perdure.datasets.streams import Length
from perdure.errors import UserError
from perdure.training.settings import Settings

_LENGTHS = ("T_max", "total_steps", "length")
"""Parameters that are the schedule's length unless they are given."""
_MADE_OF = "schedulers"
_STARTS = "milestones"


class WarmupCosine(LRScheduler):
    """A linear rise to the learning rate, then half a cosine down to 0.

    Goyal et al. 2017, "Accurate, large minibatch SGD" (warm-up), and Loshchilov & Hutter 2017,
    "SGDR" (cosine). As a function of the count alone, it resumes exactly.

    Args:
        optimizer: the learning rates it has now are those of the end of the rise.
        length: steps or epochs of the whole schedule.
        warmup: the rise's part of it.
        start: the rate at the beginning, as a part of the learning rate.
    """

    def __init__(
        self, optimizer: Optimizer, length: int, warmup: float = 0.1, start: float = 0.01
    ) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"scheduler.warmup={warmup}: must be a fraction in [0, 1)")
        if not 0 <= start <= 1:
            raise UserError(f"scheduler.start={start}: must be a fraction in [0, 1]")
        self.length = length
        self.warmup = warmup
        self.start = start
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]

    def factor(self, count: int) -> float:
        """What the learning rate is multiplied by after `count` steps or epochs."""
        rise = round(self.warmup * self.length)
        if count < rise:
            return self.start + (1 - self.start) * count / rise
        done = (count - rise) / max(1, self.length - rise)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2


class ReduceOnPlateau(ReduceLROnPlateau):
    """torch's ReduceLROnPlateau, on an accuracy that evaluations measure.

    Args:
        optimizer: its learning rates are reduced.
        monitor: which accuracy, as `checkpoint.monitor` names it.
        every: epochs between looks at it; a multiple of `training.evaluate_every`.
        mode: `max`, for an accuracy is better when it is greater.
        factor: what the learning rates are multiplied by.
        patience: looks without improvement that are waited for.
        threshold: the least improvement, absolute, as `threshold_mode` says.
        threshold_mode: `rel` or `abs`.
        cooldown: looks after a reduction that do not count.
        min_lr: no rate falls below it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str = "average_accuracy",
        every: int | None = None,
        mode: str = "max",
        factor: float = 0.1,
        patience: int = 2,
        threshold: float = 1e-4,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(
            optimizer,
            mode=mode,  # type: ignore[arg-type]
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,  # type: ignore[arg-type]
            cooldown=cooldown,
            min_lr=min_lr,
        )
        self.monitor = monitor
        self.every = every


class Schedule:
    """A scheduler as a configuration describes it; calling it makes the scheduler.

    Lengths that are null, or needed and not given, are filled in. What is made of several
    (`schedulers`, each with a `_target_`) gets these made first; the parts of a sequence are as
    long as its `milestones` leave them.

    Args:
        node: `_target_` and the options of the class.

    Raises:
        UserError: a class does not exist, or an option is not one of it.
    """

    def __init__(self, node: Mapping[str, Any], group: str = "scheduler") -> None:
        self._target = locate(node["_target_"], group)
        self._group = group
        self._options = {key: value for key, value in node.items() if key != "_target_"}
        self._parts: list[Schedule] = []
        if _MADE_OF in self._options:
            self._parts = [*_parts(self._options[_MADE_OF], f"{group}.{_MADE_OF}")]
        parameters = inspect.signature(self._target).parameters
        self._by_name = "optimizer" in parameters
        self._lengths = [
            name
            for name in parameters
            if self._options.get(name, None) is None
            and (name in _LENGTHS or (name == "total_iters" and name in self._options))
            and not ("epochs" in self._options and "steps_per_epoch" in self._options)
        ]
        self._check(dict.fromkeys(self._lengths, 1))

    def __call__(self, optimizer: Optimizer, length: int) -> Any:
        """The scheduler of `optimizer` over `length` steps or epochs.

        Raises:
            UserError: the class does not take these values, or the schedule is shorter.
        """
        made: dict[str, Any] = dict.fromkeys(self._lengths, length)
        if self._parts:
            lengths = self._lengths_of_parts(length)
            made[_MADE_OF] = [
                part(optimizer, n) for part, n in zip(self._parts, lengths, strict=True)
            ]
        options = {**copy.deepcopy(self._options), **made}
        first: list[Any] = [] if self._by_name else [optimizer]
        if self._by_name:
            options["optimizer"] = optimizer
        try:
            scheduler = self._target(*first, **options)
        except (ValueError, TypeError, ZeroDivisionError, KeyError) as error:
            raise UserError(f"{self._group}: {error}") from error
        _require_reach(scheduler, length, self._group)
        return scheduler

    def _check(self, lengths: Mapping[str, int]) -> None:
        options = {**self._options, **lengths}
        if self._parts:
            del options[_MADE_OF]
        runtime = [*(["optimizer"] if self._by_name else []), *([_MADE_OF] if self._parts else [])]
        check(self._target, options, self._group, given=0 if self._by_name else 1, runtime=runtime)

    def _lengths_of_parts(self, length: int) -> list[int]:
        starts = self._options.get(_STARTS)
        if starts is None:
            return [length] * len(self._parts)
        if len(starts) != len(self._parts) - 1:
            raise UserError(
                f"{self._group}.{_STARTS}={starts}: must be one fewer than the "
                f"{len(self._parts)} schedulers, the counts at which the next one begins"
            )
        bounds = [0, *starts, length]
        lengths = [max(0, b - a) for a, b in pairwise(bounds)]
        for part, n in zip(self._parts, lengths, strict=True):
            if not n and part._lengths:
                raise UserError(
                    f"{self._group}.{_STARTS}={starts}: nothing is left for {part._group} of the "
                    f"{length} that the schedule counts"
                )
        return lengths


def _parts(nodes: Any, group: str) -> Iterator[Schedule]:
    for i, node in enumerate(nodes if isinstance(nodes, list | tuple) else [nodes]):
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            raise UserError(
                f"{group}[{i}]={node}: must name a class, {{_target_: torch.optim.lr_scheduler.…}}"
            )
        yield Schedule(node, f"{group}[{i}]")


def count(lengths: Sequence[Length], task: int, settings: Settings) -> int:
    """How many times the scheduler of `task` is stepped before it has done.

    Args:
        lengths: of every task of the benchmark, also of those after `dataset.stop_after`: a run
            that stops early is the beginning of the whole one.
        task: number of the task.
        settings: what is counted, and whether each task has a schedule of its own.
    """
    chosen = [lengths[task]] if settings.reset_optimizer else lengths
    is_per_step = settings.scheduler_per is Per.step
    return sum(length.steps if is_per_step else length.epochs for length in chosen)


def check_schedule(
    scheduler: Any, settings: Settings, accuracies: Sequence[str], length: int
) -> None:
    """Refuse a scheduler that the loop cannot step.

    Args:
        scheduler: as made for a task; it is stepped.
        settings: of the loop.
        accuracies: names of the accuracies that an evaluation computes.
        length: how many times it is stepped.

    Raises:
        UserError: says what to give instead.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        _check_plateau(scheduler, settings, accuracies)
        return
    needed = [
        p.name
        for p in inspect.signature(scheduler.step).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise UserError(
            f"scheduler: {type(scheduler).__name__}.step needs {', '.join(needed)}, which the "
            "training loop does not have; scheduler=plateau follows an accuracy"
        )
    _require_reach(scheduler, length, "scheduler")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer has been stepped before it
            scheduler.step()
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"scheduler: {type(scheduler).__name__} fails ({error})") from error


def _require_reach(scheduler: Any, length: int, group: str) -> None:
    """Refuse one that ends (in an error) before it has been stepped `length` times."""
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < length:
        raise UserError(
            f"{group}.total_steps={total}: the schedule is stepped {length} times; leave it null, "
            "or see training.scheduler_per (epoch or step)"
        )


def _check_plateau(
    scheduler: ReduceLROnPlateau, settings: Settings, accuracies: Sequence[str]
) -> None:
    name = "scheduler=plateau"
    if scheduler.mode != "max":
        raise UserError(
            f"scheduler.mode={scheduler.mode}: an accuracy is better when it is greater; give max, "
            f"or choose {name}"
        )
    if settings.scheduler_per is Per.step:
        raise UserError(f"training.scheduler_per=step with {name}: it follows evaluations")
    if settings.evaluate_every is None:
        raise UserError(
            f"{name} follows what evaluations measure: give training.evaluate_every=1, or the "
            "epochs between them"
        )
    if settings.evaluate_every_task > 1:
        raise UserError(
            f"training.evaluate_every_task={settings.evaluate_every_task} with {name}: it follows "
            "the evaluation at every task's end too; must be 1"
        )
    every = plateau_every(scheduler, settings)
    if every < 1 or every % settings.evaluate_every:
        raise UserError(
            f"scheduler.every={every}: must be a multiple of "
            f"training.evaluate_every={settings.evaluate_every}"
        )
    monitored(scheduler, accuracies)


def plateau_every(scheduler: ReduceLROnPlateau, settings: Settings) -> int:
    """Epochs between looks at the monitored value."""
    every: int = getattr(scheduler, "every", None) or settings.evaluate_every or 1
    return every


def monitored(scheduler: Any, accuracies: Sequence[str]) -> str:
    """The full name of the accuracy that a plateau scheduler follows.

    Raises:
        UserError: there is no such accuracy.
    """
    return full_name(getattr(scheduler, "monitor", "average_accuracy"), accuracies, "scheduler")


def full_name(name: str, accuracies: Sequence[str], group: str) -> str:
    """`average_accuracy` as `average_accuracy.class_il`, the first of `accuracies`.

    Raises:
        UserError: no evaluation measures it.
    """
    known = [f"{figure}.{a}" for figure in ("average_accuracy", "accuracy") for a in accuracies]
    full = name if "." in name else f"{name}.{accuracies[0]}"
    if full not in known:
        raise UserError(f"{group}.monitor={name}: must be one of {', '.join(known)}")
    return full


def constant_rate(scheduler: Any, settings: Settings, counts: Sequence[int]) -> str | None:
    """A sentence for a schedule that is over before it has begun; None for any other."""
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau) or max(counts) > 1:
        return None
    if settings.scheduler_per is Per.step:
        return None
    return (
        "training.scheduler_per=epoch: the schedule has a single epoch, so the learning rate is "
        "constant; training.scheduler_per=step lets it follow the steps"
    )
