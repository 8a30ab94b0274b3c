"""The published row that a configuration matches, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from perdure.config.published import Choice, published
from perdure.config.tables import ORIGINS, Figure
from perdure.tracking.formatting import percent, scenario_name
from perdure.tracking.report_parts import shown, table


class Measured(NamedTuple):
    """A metric of one run, or of several: fractions; the deviation of a single one is None."""

    mean: float
    std: float | None
    n: int


def choice_of(config: Mapping[str, Any]) -> Choice:
    """Which published row a resolved configuration matches, and why none does.

    A configuration is foreign data here: one with interpolations is not read, since they could
    name a variable of the environment, and one that no run has matches nothing.
    """
    if "${" in shown(config):
        return Choice()
    try:
        return published.choose(OmegaConf.create(dict(config)))  # type: ignore[arg-type]
    except Exception:  # whatever a file of another origin makes of it, a page is written
        return Choice()


def published_section(choice: Choice, measured: Mapping[str, Measured]) -> str:
    """What was published of the row, what was measured, and the difference, a figure a line.

    Args:
        choice: the row; nothing is written where there is none.
        measured: by the metric's key, `average_accuracy.class_il`.
    """
    setting = choice.setting
    if setting is None:
        return ""
    rows = [_row(f, measured[f.metric]) for f in setting.row.figures if f.metric in measured]
    if not rows:
        return ""
    departs = "; ".join(f"{d.typed} (published: {shown(d.published)})" for d in choice.differences)
    notes = [f"{setting.name}: {setting.table.source}.", *_notes(setting.row.note, departs)]
    about = f'<p class="under">{escape(" ".join(notes))}</p>'
    return about + table(["percent", "published", "measured", "difference"], rows)


def _notes(note: str, departs: str) -> Iterator[str]:
    if note:
        yield f"{note.rstrip('.')}."
    if departs:
        yield f"The run departs from its protocol: {departs}."


def _row(figure: Figure, measured: Measured) -> tuple[str, list[str], str]:
    """The published figure is in percent, the measured one a fraction."""
    metric, _, scenario = figure.metric.partition(".")
    name = f"{metric.replace('_', ' ')}, {scenario_name(scenario)}"
    theirs = _with_spread(f"{figure.mean:.2f}", figure.std, figure.n)
    std = None if measured.std is None else 100 * measured.std
    ours = _with_spread(percent(measured.mean), std, measured.n)
    difference = f"{100 * measured.mean - figure.mean:+.2f}"
    origin = ORIGINS.get(figure.origin, figure.origin)
    by = f", {figure.by}" if figure.by else ""
    return name, [theirs, ours, difference], f"{origin}{by}"


def _with_spread(mean: str, std: float | None, n: int | None) -> str:
    spread = "" if std is None else f" ± {std:.2f}"
    return f"{mean}{spread}" + (f" ({n} run{'' if n == 1 else 's'})" if n else "")
