"""The arms of a comparison: which runs are on which side, and which of them are paired.

An *arm* is one side: the runs that fit some conditions (`model=derpp`), or those of some folders.
Where both arms vary in a further key (`buffer.size`), they are compared at each of its values. Runs
are paired over seed and class order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from perdure.analysis.comparison import Comparison
from perdure.analysis.groups import Group, differing, grouped, metrics_of, shown_values
from perdure.analysis.runs import ORDERS, Run
from perdure.analysis.statistics import LEVEL, TESTS, holm
from perdure.analysis.tables import paired
from perdure.config.compare import BENCHMARK, is_within
from perdure.errors import UserError
from perdure.tracking.formatting import SCENARIOS


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: as it is called in sentences.
        runs: those that it has, finished or not.
        keys: what tells it apart: conditions on these.
    """

    name: str
    runs: Sequence[Run]
    keys: tuple[str, ...] = ()


def compare(
    arms: Sequence[Arm],
    metrics: Sequence[str] = (),
    test: str = "sign-flip",
    level: float = LEVEL,
    all_pairs: bool = False,
) -> list[Comparison]:
    """The first arm against every other one, or all pairs of arms, in each metric.

    Args:
        arms: two at least.
        metrics: names; empty is the average accuracy, class-IL, else the first that there is.
        test: of `statistics.TESTS`.
        level: of claims, over all comparisons.
        all_pairs: of arms, not only those with the first.

    Raises:
        UserError: an arm has no finished run, runs of an arm are of several settings that the
            other does not have, the arms are of different benchmarks, or have no seed in common.
    """
    for arm in arms:
        if not any(run.is_finished for run in arm.runs):
            raise UserError(f"{arm.name}: no run has finished; must be runs that have")
    pairs = list(itertools.combinations(arms, 2))
    if not all_pairs:
        pairs = pairs[: len(arms) - 1]  # those with the first
    found = [
        comparison
        for a, b in pairs
        for groups in _matched(a, b)
        for comparison in _compared(groups, a, b, metrics, test)
    ]
    adjusted = holm([comparison.p for comparison in found])
    return [
        replace(comparison, adjusted=p, level=level, of=len(found))
        for comparison, p in zip(found, adjusted, strict=True)
    ]


def _matched(a: Arm, b: Arm) -> Iterator[tuple[Group, Group]]:
    """Groups of both arms that have the same values of what both vary in.

    Raises:
        UserError: one arm varies in what the other does not, or nothing fits.
    """
    split_a, split_b = (grouped(arm.runs) if arm.runs else [] for arm in (a, b))
    keys_a, keys_b = ([*groups[0].setting] for groups in (split_a, split_b))
    for arm, other, keys, others in ((a, b, keys_a, keys_b), (b, a, keys_b, keys_a)):
        for key in keys:
            if key not in others:
                itself = f", or in the arm itself with ,{key}=…" if arm.keys else ""
                raise UserError(
                    f"{arm.name}: its runs differ in {key} ({shown_values(arm.runs, key)}), those "
                    f"of {other.name} do not; choose one value with --where {key}=…{itself}"
                )
    by_setting = {tuple(sorted(group.setting.items())): group for group in split_b}
    found = False
    for group in split_a:
        partner = by_setting.get(tuple(sorted(group.setting.items())))
        if partner is not None:
            found = True
            _require_same_benchmark(a, b, group, partner)
            yield group, partner
    if not found:
        raise UserError(
            f"{a.name} and {b.name}: no setting is in both ({split_a[0].name}, "
            f"{split_b[0].name}); must be runs of the same settings but for the arms' own"
        )


def _require_same_benchmark(a: Arm, b: Arm, one: Group, other: Group) -> None:
    runs = [next(iter(one.runs.values())), next(iter(other.runs.values()))]
    for key in differing(runs, (*ORDERS, *a.keys, *b.keys)):
        if is_within(key, BENCHMARK) or any(is_within(part, (key,)) for part in BENCHMARK):
            raise UserError(
                f"{a.name} and {b.name}: are of different benchmarks, {key} "
                f"({shown_values(runs, key)}); must be runs of one benchmark"
            )


def _compared(
    groups: tuple[Group, Group], a: Arm, b: Arm, metrics: Sequence[str], test: str
) -> Iterator[Comparison]:
    names, keys = (a.name, b.name), (*a.keys, *b.keys)
    for metric in metrics or _default_metric(groups, names):
        differences = paired(groups[0].values(metric), groups[1].values(metric))
        if not differences:
            raise UserError(
                f"{names[0]} and {names[1]}: no two runs of one seed and class order have "
                f"{metric}; must be runs of the same seeds, with that metric"
            )
        ordered = tuple(differences[each] for each in sorted(differences))
        seeds = len({seed for seed, _ in differences})
        p = TESTS[test][1](ordered)
        yield Comparison(*groups, names, keys, metric, ordered, seeds, test, p)


def _default_metric(groups: Iterable[Group], names: tuple[str, str]) -> list[str]:
    known = [set(metrics_of([group])) for group in groups]
    for scenario in SCENARIOS:
        metric = f"average_accuracy.{scenario}"
        if all(metric in each for each in known):
            return [metric]
    raise UserError(
        f"{names[0]} and {names[1]}: have no average accuracy of one kind; --metric must name what "
        "both have"
    )
