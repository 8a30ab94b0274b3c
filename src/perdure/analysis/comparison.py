"""Does A beat B? What can be said of paired runs: in a sentence, as a table, and with which notes.

Which runs are paired is decided in `arms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from perdure.analysis.groups import (
    REPEATED,
    Group,
    differing,
    shown_values,
    tuning_note,
)
from perdure.analysis.statistics import (
    LEVEL,
    TESTS,
    effect_size,
    interval,
    is_exact,
    least_p,
    least_pairs,
    seeds_needed,
)
from perdure.analysis.tables import Cell, Table, is_lower_better

_FEW = 3
"""Pairs below which nothing is known of the spread."""
_NARROW = 6
"""Pairs below which even the range of their means is no 95 % interval: 1 - 2^(1-n) < 0.95."""
_SHOWN = 4
"""Keys that a note names at most."""
_DATA_HEADS = (
    "a", "b", "setting", "metric", "mean_a", "mean_b", "difference", "low", "high", "p", "p_holm",
    "effect_size", "pairs", "runs_a", "runs_b", "seeds_needed", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Two arms in one metric, at one value of what both vary in.

    Attributes:
        a, b: the groups of runs.
        names: how the arms are called.
        keys: by which the arms were chosen.
        metric: the metric.
        differences: a minus b of each pair.
        n_seeds: how many seeds the pairs have.
        test: which one, of `statistics.TESTS`.
        p: of this test alone.
        adjusted: p over all comparisons of the table.
        level: of the claim, over the table.
        of: how many comparisons the table has.
    """

    a: Group
    b: Group
    names: tuple[str, str]
    keys: tuple[str, ...]
    metric: str
    differences: tuple[float, ...]
    n_seeds: int
    test: str = "sign-flip"
    p: float = 1.0
    adjusted: float = 1.0
    level: float = LEVEL
    of: int = 1

    @property
    def n(self) -> int:
        """How many pairs there are."""
        return len(self.differences)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the mean difference lies, with probability 0.95; None for too few pairs."""
        return None if self.n < _FEW else interval(self.differences)

    @property
    def setting(self) -> str:
        """At which value of what both arms vary in; empty: there is nothing."""
        return self.a.name if self.a.setting else ""

    @property
    def strictest(self) -> float:
        """The level that the smallest p value of the table must reach."""
        return self.level / self.of

    @property
    def can_decide(self) -> bool:
        """Whether so many pairs could reach the level at all."""
        return least_p(self.test, self.n) <= self.strictest

    @property
    def is_significant(self) -> bool:
        """Whether the arms differ, at the level, over the whole table."""
        return self.adjusted <= self.level

    @property
    def needed(self) -> int | None:
        """Pairs in all that the observed difference would need; None where nobody runs so many."""
        return seeds_needed(self.differences, self.test, self.strictest)

    @property
    def more(self) -> int | None:
        """Further seeds that a claim would need; None as above."""
        return None if self.needed is None else max(1, self.needed - self.n)

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `not told apart`, or `too few pairs`."""
        if self.is_significant:
            better = (mean(self.differences) > 0) != is_lower_better(self.metric)
            return "better" if better else "worse"
        return "not told apart" if self.can_decide else "too few pairs"

    def sentence(self) -> str:
        """What can be said, in one sentence."""
        at = f" at {self.setting}" if self.setting else ""
        a, b = self.names
        if self.is_significant:
            if self.verdict == "worse":
                a, b = b, a
            size = _amount(self.metric, abs(mean(self.differences)))
            return f"{a} beats {b} on {self.metric}{at} by {size} ({self._evidence()})"
        observed = _amount(self.metric, mean(self.differences), signed=True)
        start = f"{a} and {b} cannot be told apart on {self.metric}{at}"
        found = f"the difference is {observed} ({self._evidence()})"
        if not self.can_decide:
            least = least_pairs(self.test, self.strictest)
            return (
                f"{start} with {self._pairs()}, whose smallest possible p is "
                f"{_p(least_p(self.test, self.n))}, above {self.strictest:.3g}: at least "
                f"{_seeds(least - self.n)} needed; {found}"
            )
        if self.n < _FEW:
            return f"{start}: {found}; so few seeds do not say how many a claim would need"
        if self.more is None:
            return f"{start}: {found}; no number of seeds that anybody runs would show it"
        return (
            f"{start}: {found}; a difference of this size would need about {_seeds(self.more)} "
            "(80 % power)"
        )

    def _evidence(self) -> str:
        """Interval, p and n; of a claim, the interval is that of the amount, above zero."""
        test = f"{'exact ' if is_exact(self.test, self.n) else ''}{TESTS[self.test][0]}"
        within = ""
        if self.interval is not None:
            low, high = self.interval
            if self.is_significant and mean(self.differences) < 0:
                low, high = -high, -low
            within = f"95 % interval {_range(self.metric, low, high)}, "
        holm_p = f", {_p(self.adjusted)} after Holm's correction for {self.of}" * (self.of > 1)
        return f"{within}p = {_p(self.p)}{holm_p}, {test}, n = {self._pairs()}"

    def _pairs(self) -> str:
        seeds = f"{self.n_seeds} seed{'' if self.n_seeds == 1 else 's'}"
        return seeds if self.n_seeds == self.n else f"{self.n} pairs of {seeds}"


def table_of(comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> Table:
    """A row a comparison, with the numbers behind its sentence."""
    settings = any(comparison.setting for comparison in comparisons)
    heads = [
        "comparison", *(["at"] if settings else []), "metric", "difference", "95 % interval", "p",
        "p (Holm)", "effect size", "pairs", "verdict",
    ]  # fmt: skip
    rows, data = [], []
    for each in comparisons:
        effect = effect_size(each.differences)
        a, b = (mean(group.values(each.metric).values()) for group in (each.a, each.b))
        difference = mean(each.differences)
        texts = [
            " - ".join(each.names), *([each.setting] if settings else []), each.metric,
            _number(each.metric, difference, signed=True),
            "" if each.interval is None else _range(each.metric, *each.interval),
            _p(each.p), _p(each.adjusted), "" if effect is None else f"{effect:.2f}", str(each.n),
            each.verdict,
        ]  # fmt: skip
        rows.append([Cell(text) for text in texts])
        data.append([
            *each.names, each.setting, each.metric, a, b, difference,
            *(each.interval or (None, None)),
            each.p, each.adjusted, effect, each.n, len(each.a.runs), len(each.b.runs), each.needed,
            each.verdict,
        ])  # fmt: skip
    return Table(heads, rows, 3 if settings else 2, notes, _DATA_HEADS, data)


def notes_of(comparisons: Sequence[Comparison]) -> list[str]:
    """What else a reader must know: how it was tested, missing pairs, other differences, tuning."""
    first, n = comparisons[0], len(comparisons)
    test = TESTS[first.test][0]
    over = "" if n == 1 else f" over all {n} comparisons (Holm)"
    notes = [
        f"Differences are paired over seed and class order; accuracies in points. "
        f"{test[0].upper()}{test[1:]}, two-sided, at {first.level:g}{over}; bootstrap interval "
        "(expanded percentile); effect size d_z with Hedges' correction."
    ]
    if any(_FEW <= each.n < _NARROW for each in comparisons):
        notes.append(
            f"Of fewer than {_NARROW} pairs the interval holds the mean less often than stated."
        )
    for each in comparisons:
        unpaired = len(each.a.runs) + len(each.b.runs) - 2 * each.n
        if unpaired:
            where = f" at {each.setting}" if each.setting else ""
            notes.append(
                f"{unpaired} run{'' if unpaired == 1 else 's'} of {' and '.join(each.names)}"
                f"{where} without a partner of the same seed and class order, or without "
                f"{each.metric}, left out."
            )
        notes += _other_differences(each)
    named = [
        replace(group, setting={"arm": name})
        for each in comparisons
        for group, name in zip((each.a, each.b), each.names, strict=True)
    ]
    notes.append(tuning_note(list({group.name: group for group in named}.values())))
    return list(dict.fromkeys(filter(None, notes)))


def _other_differences(each: Comparison) -> Iterator[str]:
    """In which further keys the arms differ: hyperparameters that were not asked for.

    Those of the methods themselves are left out.
    """
    runs = [next(iter(group.runs.values())) for group in (each.a, each.b)]
    chosen = (*each.keys, *(["addon"] if "model" in each.keys else []))
    found = differing(runs, (*REPEATED, *chosen))
    keys = [key for key in found if not key.startswith(("model.", "addon."))]
    if keys:
        shown = [f"{key} ({shown_values(runs, key)})" for key in keys[:_SHOWN]]
        rest = f" and {len(keys) - _SHOWN} more keys" if len(keys) > _SHOWN else ""
        yield f"{' and '.join(each.names)} also differ in {', '.join(shown)}{rest}."


# --- numbers in words -----------------------------------------------------------------------------


def _number(metric: str, value: float, signed: bool = False) -> str:
    """Points for what is a fraction, three digits for a cost."""
    sign = "+" if signed else ""
    if metric.startswith("cost."):
        return format(value, f"{sign}.3g")
    return format(100 * value, f"{sign}.2f")


def _range(metric: str, low: float, high: float) -> str:
    return f"{_number(metric, low)} to {_number(metric, high)}"


def _amount(metric: str, value: float, signed: bool = False) -> str:
    unit = "" if metric.startswith("cost.") else " points"
    return f"{_number(metric, value, signed)}{unit}"


def _p(value: float) -> str:
    """As papers write it: `.031`."""
    text = f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"
    return text.removeprefix("0") or "0" if value < 1 else "1"


def _seeds(n: int) -> str:
    return f"{n} more seed{'' if n == 1 else 's'}"
