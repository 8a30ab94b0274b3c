"""The table of reproduced results: ours beside the published figures, with verdicts; and CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.analysis.statistics import holm
from perdure.analysis.tables import markdown_table as table
from perdure.cli.verdicts import LEVEL, Sample, published, verdict, welch
from perdure.config.tables import Figure, Setting
from perdure.tracking.formatting import scenario_name

_METRIC = "average_accuracy."
_HEAD = """\
# Results

Written by `perdure reproduce`; nothing here is typed by hand. Percent, mean ± sample standard
deviation over seeds. The published figure is as sure as it is said to be: *paper*, read there;
*copy*, quoted by a later text; *recalled*, written down from memory, which is never shown as the
paper's and is at best *consistent*. A *rerun* is the named code, run again by us. The verdict is
that of Welch's t-test against the published figure, at {level:.0%} over the whole page (Holm);
where no standard deviation was published it is taken to be ours, one point at least.

A row that differs is a bug until it is explained; the explanation is in its note.
"""
_STEPS = """\
## The cost of a step

CPU time of a step of the main phase on seq-mnist from the second task on, with replay, teachers and
penalties, on one thread; the ratio is the median of pairs of runs side by side
(`scripts/step_times.py`). Work between steps is not in it.
"""
STEP_TIMES = "step-times.csv"
COLUMNS = (
    "setting", "benchmark", "method", "buffer", "metric", "mean", "std", "n", "seeds", "values",
    "published_mean", "published_std", "published_n", "published_origin", "p_adjusted", "verdict",
    "rerun_mean", "rerun_std", "rerun_n", "rerun_by", "cpu_seconds", "note", "audit",
    "command", "commit", "date",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A setting that was run, or was not.

    Attributes:
        setting: the published row.
        accuracy: by name, of each seed, in percent; empty where it was not run.
        seeds: in this order.
        cpu_seconds: mean of a run.
        audit: what the audit of the method said.
        missing: why it was not run.
        commit: of the code that ran.
        date: when it was written down.
    """

    setting: Setting
    accuracy: Mapping[str, Sequence[float]]
    seeds: Sequence[int] = ()
    cpu_seconds: float | None = None
    audit: str = ""
    missing: str = ""
    commit: str = ""
    date: str = ""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of the accuracies that were measured, or published."""
        named = [f.metric.removeprefix(_METRIC) for f in self.setting.row.figures]
        return list(dict.fromkeys(self.accuracy)) or list(dict.fromkeys(named))

    def figure(self, metric: str, rerun: bool) -> Figure | None:
        """The first figure that was published of `metric`, or that a rerun gave."""
        for figure in self.setting.row.figures:
            of_metric = figure.metric == f"{_METRIC}{metric}"
            if of_metric and (figure.origin == "rerun") == rerun:
                return figure
        return None


@dataclass(frozen=True)
class Line:
    """A metric of a setting, with its verdict."""

    measured: Measured
    metric: str
    ours: Sample | None
    figure: Figure | None
    rerun: Figure | None
    p: float = float("nan")

    @property
    def verdict(self) -> str:
        """In words."""
        if self.ours is None or self.figure is None:
            return ""
        return verdict(self.figure, self.ours, self.p)


def lines_of(rows: Iterable[Measured]) -> list[Line]:
    """Every metric of every setting, with p values adjusted over all of them."""
    lines = []
    for row in rows:
        for metric in row.metrics:
            values = row.accuracy.get(metric)
            ours = Sample.of(values) if values else None
            figures = row.figure(metric, False), row.figure(metric, True)
            lines.append(Line(row, metric, ours, *figures))
    tested = [(k, *both) for k, line in enumerate(lines) if (both := _compared(line)) is not None]
    adjusted = holm([welch(ours, published(figure, ours)) for _, ours, figure in tested])
    for (k, _, _), p in zip(tested, adjusted, strict=True):
        lines[k] = replace(lines[k], p=p)
    return lines


def _compared(line: Line) -> tuple[Sample, Figure] | None:
    """What is compared; None where there are too few runs, or nothing was published."""
    if line.ours is None or line.ours.n < 2 or line.figure is None:
        return None
    return line.ours, line.figure


def step_times(file: Path) -> list[dict[str, str]]:
    """What scripts/step_times.py wrote; nothing where it did not."""
    if not file.is_file():
        return []
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def page(lines: Sequence[Line], times: Sequence[Mapping[str, str]] = ()) -> str:
    """docs/results.md: a table a benchmark with its notes, then the cost of a step.

    Args:
        lines: of all settings, in order.
        times: rows of `step_times`.
    """
    parts = [_HEAD.format(level=LEVEL), *_when(lines)]
    for benchmark in dict.fromkeys(_benchmark(line) for line in lines):
        own = [line for line in lines if _benchmark(line) == benchmark]
        parts += [f"## {benchmark}\n", table([_heads(), *map(_cells, own)]) + "\n"]
        parts += [f"{text}\n" for text in _notes(own)]
    if times:
        heads = ["method", "µs a step", "relative to er", "passes forward", "backward"]
        keys = ("method", "step_us", "relative_to_er", "forward_passes", "backward_passes")
        rows = [[f"`{row['method']}`", *(row[key] for key in keys[1:])] for row in times]
        parts += [_STEPS, table([heads, *rows]) + "\n"]
    return "\n".join(parts)


def _when(lines: Sequence[Line]) -> Iterator[str]:
    """How many rows were run at which commit."""
    ran = {line.measured.setting.name: line.measured for line in lines if line.ours is not None}
    counted = Counter((row.date, row.commit) for row in ran.values())
    for (date, commit), n in sorted(counted.items()):
        yield f"{n} row{'s' * (n > 1)} of {date}, commit {commit}.\n"


def _benchmark(line: Line) -> str:
    setting = line.measured.setting
    return f"{setting.benchmark.name} ({setting.table.source})"


def _heads() -> list[str]:
    return ["row", "metric", "ours", "n", "published", "rerun", "verdict", "CPU s", "audit"]


def _cells(line: Line) -> list[str]:
    measured, ours = line.measured, line.ours
    spent = measured.cpu_seconds
    return [
        f"`{measured.setting.row.name}`",
        scenario_name(line.metric),
        measured.missing if ours is None else _shown(ours.mean, ours.std if ours.n > 1 else None),
        "" if ours is None else str(ours.n),
        _published(line.figure),
        "" if line.rerun is None else _shown(line.rerun.mean, line.rerun.std),
        line.verdict,
        "" if spent is None else f"{spent:.1f}",
        measured.audit,
    ]


def _published(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{_shown(figure.mean, figure.std)} ({figure.origin})"


def _shown(value: float, std: float | None) -> str:
    return f"{value:.2f}" if std is None else f"{value:.2f} ± {std:.2f}"


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    """Each note once, with the rows that it is of."""
    rows: dict[str, list[str]] = {}
    for line in lines:
        setting = line.measured.setting
        departs = ", ".join(f"{k}={v}" for k, v in setting.row.protocol.items())
        text = " ".join(f"{setting.row.note} {f'({departs})' if departs else ''}".split())
        names = rows.setdefault(text, [])
        if setting.row.name not in names:
            names.append(setting.row.name)
    for text, names in rows.items():
        if text:
            yield f"- {', '.join(f'`{name}`' for name in names)}: {text}"


def of_sheet(text: str, settings: Mapping[str, Setting]) -> list[Measured]:
    """What a CSV of `sheet` says was run.

    Args:
        text: the file's content.
        settings: published rows by name.
    """
    found: dict[str, Measured] = {}
    for record in csv.DictReader(io.StringIO(text)):
        name, values = record["setting"], [float(value) for value in record["values"].split()]
        known = found.get(name)
        accuracy = {} if known is None else dict(known.accuracy)
        if values:
            accuracy[record["metric"]] = values
        found[name] = Measured(
            settings[name],
            accuracy,
            [int(seed) for seed in record["seeds"].split()],
            float(record["cpu_seconds"]) if record["cpu_seconds"] else None,
            record["audit"],
            "" if values else record["verdict"],
            record["commit"],
            record["date"],
        )
    return list(found.values())


def with_earlier(
    rows: Iterable[Measured], earlier: Iterable[Measured], names: Iterable[str]
) -> list[Measured]:
    """`rows`, and of `earlier` those that are not run again, in the order of `names`.

    An audit that is not made again stays.
    """
    found = {row.setting.name: row for row in earlier}
    for row in rows:
        before = found.get(row.setting.name)
        if before is None or row.accuracy:
            audit = row.audit or ("" if before is None else before.audit)
            found[row.setting.name] = replace(row, audit=audit)
    order = {name: place for place, name in enumerate(names)}
    return sorted(found.values(), key=lambda row: order[row.setting.name])


def sheet(lines: Sequence[Line]) -> str:
    """The same as CSV, a line a metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(_record(line))
    return text.getvalue()


def _record(line: Line) -> dict[str, Any]:
    measured, ours, figure, rerun = line.measured, line.ours, line.figure, line.rerun
    setting = measured.setting
    record: dict[str, Any] = {
        "setting": setting.name,
        "benchmark": setting.benchmark.name,
        "method": setting.row.method,
        "buffer": setting.row.buffer,
        "metric": line.metric,
        "seeds": " ".join(map(str, measured.seeds)),
        "verdict": line.verdict or measured.missing,
        "cpu_seconds": measured.cpu_seconds,
        "note": " ".join(setting.row.note.split()),
        "audit": measured.audit,
        "command": f"perdure train experiment={setting.name}",
        "commit": measured.commit,
        "date": measured.date,
    }
    if ours is not None:
        values = " ".join(map(repr, measured.accuracy[line.metric]))  # exactly
        record |= {"mean": f"{ours.mean:.3f}", "std": f"{ours.std:.3f}", "n": ours.n}
        record["values"] = values
    if line.p == line.p:
        record["p_adjusted"] = f"{line.p:.3g}"
    for name, each in (("published", figure), ("rerun", rerun)):
        if each is not None:
            record |= {f"{name}_mean": each.mean, f"{name}_std": each.std, f"{name}_n": each.n}
    if figure is not None:
        record["published_origin"] = figure.origin
    if rerun is not None:
        record["rerun_by"] = rerun.by
    return record
