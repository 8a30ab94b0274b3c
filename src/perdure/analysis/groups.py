"""Groups of runs: one a setting, its seeds and class orders told apart; mean and spread of metrics.

Runs are of one group where they have the same values of the keys that are grouped by. Runs that
differ in anything else but the seed and the class order are never pooled in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import TypeAlias

from perdure.analysis.runs import ORDERS, SEEDS, Run, varied
from perdure.config.compare import is_within
from perdure.config.suggestions import nearest
from perdure.errors import UserError

Repetition: TypeAlias = tuple[str, str]
"""Seed and class order, by which runs of two settings are paired."""
REPEATED = (*SEEDS, *ORDERS)
_OF_THE_OPTION = ("_target_", "name")
"""Keys of a group's option whose value says no more than the group's own."""


@dataclass(frozen=True)
class Spread:
    """A metric over the runs of a group.

    Attributes:
        n: how many runs have it.
        mean: over these.
        std: sample standard deviation over these; None for one.
        seeds: the same over seeds within a class order, pooled over orders; None unless runs of
            several orders have several seeds each.
        orders: the same of the means of the orders; None as above.
    """

    n: int
    mean: float
    std: float | None
    seeds: float | None = None
    orders: float | None = None


@dataclass(frozen=True)
class Group:
    """Finished runs of one setting.

    Attributes:
        setting: key → value, of the keys that are grouped by.
        runs: one for each seed and class order, by these.
        repeated: how many further runs of the same seed and order there were.
    """

    setting: Mapping[str, str]
    runs: Mapping[Repetition, Run] = field(default_factory=dict)
    repeated: int = 0

    @property
    def name(self) -> str:
        """`model=er buffer.size=200`; `all` where nothing is grouped by."""
        return " ".join(f"{key}={value}" for key, value in self.setting.items()) or "all"

    @property
    def n_seeds(self) -> int:
        """How many seeds there are."""
        return len({seed for seed, _ in self.runs})

    @property
    def n_orders(self) -> int:
        """How many class orders there are."""
        return len({run.class_order for run in self.runs.values()})

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the metrics that at least one run has."""
        return list(dict.fromkeys(name for run in self.runs.values() for name in run.metrics))

    def values(self, metric: str) -> dict[Repetition, float]:
        """The metric of each run that has it."""
        return {
            repetition: run.metrics[metric]
            for repetition, run in self.runs.items()
            if metric in run.metrics
        }

    def spread(self, metric: str) -> Spread | None:
        """Mean and standard deviations of a metric; None where no run has it."""
        values = [
            (run.class_order, run.metrics[metric])
            for run in self.runs.values()
            if metric in run.metrics
        ]
        return spread_of(values) if values else None


def spread_of(values: Sequence[tuple[str, float]]) -> Spread:
    """Of single runs, each with its class order."""
    each = [value for _, value in values]
    std = stdev(each) if len(each) > 1 else None
    by_order: dict[str, list[float]] = {}
    for order, value in values:
        by_order.setdefault(order, []).append(value)
    several = [found for found in by_order.values() if len(found) > 1]
    if len(by_order) < 2 or not several:
        return Spread(len(each), mean(each), std)
    squares = sum(stdev(found) ** 2 * (len(found) - 1) for found in several)
    within = math.sqrt(squares / sum(len(found) - 1 for found in several))
    return Spread(len(each), mean(each), std, within, stdev(map(mean, by_order.values())))


def grouped(
    runs: Iterable[Run], by: Sequence[str] | None = None, over: Sequence[str] = ()
) -> list[Group]:
    """Finished runs as groups, in the order in which each is met first.

    Args:
        runs: those that have not finished are left out.
        by: keys; None is whatever varies.
        over: keys in which runs of a group may differ, beside the seed and the class order.

    Raises:
        UserError: no run has one of the keys, or runs of a group differ in another one.
    """
    finished = [run for run in runs if run.is_finished]
    free = (*REPEATED, *over)
    if by is not None:
        _require_known(finished, by)
        groups = _split(finished, by, over)
        for setting, members in groups:
            _require_alike(setting, members, free)
    else:
        keys = varied(finished, without=free)
        # Runs that were typed alike may still differ, by a file of the configuration.
        while further := _further(_split(finished, keys, over), free):
            keys = [*keys, further]
        groups = _split(finished, keys, over)
    return [_group(setting, members, over) for setting, members in groups]


def metrics_of(groups: Iterable[Group]) -> list[str]:
    """Names of the metrics that at least one group has, in the order of results.json."""
    return list(dict.fromkeys(name for group in groups for name in group.metrics))


def require_metrics(groups: Iterable[Group], names: Sequence[str]) -> None:
    """Refuse metrics that no run has.

    Raises:
        UserError: names one, and what there is.
    """
    known = metrics_of(groups)
    for name in names:
        if name not in known:
            raise UserError(
                f"{name}: no finished run has this metric{nearest(name, known)}; "
                f"must be {', '.join(known) or 'one of a finished run'}"
            )


def differing(runs: Sequence[Run], without: Sequence[str]) -> list[str]:
    """Keys of the whole configuration in which `runs` differ, but those in or below `without`.

    The group's name stands for its option where it tells them apart (`model` for `model._target_`).
    """
    found: dict[str, None] = {}
    for key in dict.fromkeys(key for run in runs for key in run.config or run.typed):
        if not is_within(key, without) and _differ(runs, key):
            group, _, last = key.rpartition(".")
            is_option = last in _OF_THE_OPTION and group and _differ(runs, group)
            found[group if is_option else key] = None
    return list(found)


def shown_values(runs: Iterable[Run], key: str) -> str:
    """The values of a key, each once: `200, 500`."""
    return ", ".join(dict.fromkeys(run.setting(key) or "nothing" for run in runs))


def tuning_note(groups: Sequence[Group]) -> str:
    """With which budgets hyperparameters were chosen, in a sentence; empty where none is stored."""
    budgets = {
        group.name: ", ".join(dict.fromkeys(run.tuning or "" for run in group.runs.values()))
        for group in groups
    }
    if not any(budgets.values()):
        return ""
    known = [f"{name}: {budget or 'not stored'}" for name, budget in budgets.items()]
    unequal = len(set(budgets.values())) > 1
    return f"Tuning budgets{' are unequal' if unequal else ''}: {'; '.join(known)}."


def _split(
    runs: Sequence[Run], keys: Sequence[str], over: Sequence[str]
) -> list[tuple[dict[str, str], list[Run]]]:
    found: dict[tuple[str, ...], list[Run]] = {}
    left = [key for key in keys if key not in over]
    for run in runs:
        found.setdefault(tuple(run.setting(key) for key in left), []).append(run)
    return [(dict(zip(left, values, strict=True)), members) for values, members in found.items()]


def _group(setting: Mapping[str, str], members: Sequence[Run], over: Sequence[str]) -> Group:
    runs: dict[Repetition, Run] = {}
    for run in members:
        more = [run.setting(key) for key in over if key not in REPEATED]
        # Runs that are averaged over further keys are repetitions of their own.
        runs[" ".join([run.seed, *more]), run.order] = run
    return Group(setting, runs, len(members) - len(runs))


def _further(groups: Sequence[tuple[Mapping[str, str], Sequence[Run]]], free: Sequence[str]) -> str:
    """A key in which runs of a group differ all the same; empty: there is none."""
    return next((key for _, runs in groups for key in differing(runs, free)), "")


def _require_known(runs: Sequence[Run], keys: Sequence[str]) -> None:
    for key in keys:
        if runs and not any(run.setting(key) for run in runs):
            known = dict.fromkeys(key for run in runs for key in (*run.typed, *run.config))
            raise UserError(
                f"--by {key}: no run has this key{nearest(key, known)}; must be a key or group of "
                "the configuration, as model or buffer.size"
            )


def _require_alike(setting: Mapping[str, str], runs: Sequence[Run], free: Sequence[str]) -> None:
    for key in differing(runs, free):
        name = " ".join(f"{k}={v}" for k, v in setting.items()) or "all runs"
        raise UserError(
            f"{name}: its runs differ in {key} too ({shown_values(runs, key)}); add {key} to --by, "
            f"choose one with --where {key}=…, or pool them with --over {key}"
        )


def _differ(runs: Sequence[Run], key: str) -> bool:
    first = runs[0].setting(key)
    return any(run.setting(key) != first for run in runs)
