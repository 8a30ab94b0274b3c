"""Published settings: protocols, hyperparameters and accuracies, by paper, benchmark and method.

    perdure published
    perdure published model=derpp dataset=seq-mnist
    perdure published dark-experience/seq-mnist

`perdure train experiment=<paper>/<benchmark>/<row>` runs a row; those of methods or benchmarks
that are not part of this version are marked by a dash. Accuracies are percent, with how sure they
are: paper (read there), copy (quoted by a later text), recalled (from memory), rerun (the named
code, run again), claimed (by a program of its own), plot (read off a plot).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from perdure.config.protocol import shown
from perdure.config.published import published
from perdure.config.tables import Figure, Setting
from perdure.errors import UserError
from perdure.tracking.formatting import SCENARIOS

_METRICS = {f"average_accuracy.{kind}": name for kind, name in SCENARIOS.items()}
_WIDTH = 98


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the settings that fit; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "filters", nargs="*", metavar="FILTER", help="model=…, dataset=…, or the start of a name"
    )
    parser.add_argument("--config-dir", help="a folder with published/*.yaml of your own")
    options = parser.parse_args(arguments)
    try:
        published.look_in([options.config_dir] if options.config_dir else [])
        print("\n".join(text(options.filters)))
    except UserError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2
    return 0


def text(filters: Sequence[str]) -> Iterator[str]:
    """The settings that fit all `filters`, one line at a time.

    Raises:
        UserError: a filter cannot be read, or no setting fits.
    """
    chosen = [s for s in published.settings.values() if all(_fits(s, f) for f in filters)]
    if not chosen:
        raise UserError(
            f"{' '.join(filters)}: no setting is published; filters are model=…, dataset=…, or the "
            "start of a name, and perdure published alone lists all"
        )
    groups: dict[tuple[str, str], list[Setting]] = defaultdict(list)
    for setting in chosen:
        groups[setting.table.name, setting.benchmark.name].append(setting)
    paper = ""
    for settings in groups.values():
        if settings[0].table.name != paper:
            paper = settings[0].table.name
            yield from _head(settings[0])
        yield from _benchmark(settings)


def fits_name(setting: Setting, start: str) -> bool:
    """Whether `start` is the setting's name, with or without its paper, or a start of it."""
    _, _, short = setting.name.partition("/")
    starts = (f"{start}/", f"{start}-")
    return any(f"{name}/".startswith(starts) for name in (setting.name, short))


def _fits(setting: Setting, text: str) -> bool:
    key, is_pair, option = text.partition("=")
    if not is_pair:
        return fits_name(setting, text)
    if key not in ("model", "dataset") or not option:
        raise UserError(f"{text}: must be model=<option>, dataset=<option>, or a start of a name")
    return option == (setting.row.method if key == "model" else setting.benchmark.dataset)


def _head(setting: Setting) -> Iterator[str]:
    paper = setting.table
    lines = [paper.source, *filter(None, (paper.title, paper.url, paper.code))]
    yield f"{paper.name}: {lines[0]}"
    yield from (f"  {line}" for line in lines[1:])


def _benchmark(settings: Sequence[Setting]) -> Iterator[str]:
    """One protocol and its rows."""
    benchmark = settings[0].benchmark
    yield ""
    yield f"{settings[0].table.name}/{benchmark.name}"
    yield from _wrapped(_protocol(benchmark.protocol))
    if benchmark.unknown:
        yield f"  not told by the source: {', '.join(benchmark.unknown)}"
    if benchmark.note:
        yield from _wrapped(benchmark.note.split())
    yield ""
    columns = _columns(settings)
    rows = [("  row", *columns, "hyperparameters"), *(_cells(s, columns) for s in settings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
    yield from _notes(settings)
    yield ""


def _protocol(protocol: Mapping[str, object]) -> list[str]:
    return [f"{key}={shown(value)}" for key, value in protocol.items()] or ["no protocol"]


def _wrapped(words: Sequence[str]) -> Iterator[str]:
    line = " "
    for word in words:
        if len(line) + len(word) >= _WIDTH and line.strip():
            yield line
            line = " "
        line += f" {word}"
    yield line


def _columns(settings: Sequence[Setting]) -> list[str]:
    """Heads of the metrics that these rows have figures of."""
    found = {figure.metric for setting in settings for figure in setting.row.figures}
    known = [name for metric, name in _METRICS.items() if metric in found]
    return known + sorted(found - _METRICS.keys())


def _cells(setting: Setting, columns: Sequence[str]) -> tuple[str, ...]:
    row = setting.row
    values = [f"{key}={shown(value)}" for key, value in setting.values.items()]
    values += [f"[{key}={shown(value)}]" for key, value in row.protocol.items()]
    figures: dict[str, list[str]] = defaultdict(list)
    for figure in row.figures:
        figures[_METRICS.get(figure.metric, figure.metric)].append(_figure(figure))
    mark = " " if published.is_runnable(setting) else "-"
    shown_figures = ("; ".join(figures[column]) for column in columns)
    return (f"{mark} {row.name}", *shown_figures, " ".join(values))


def _figure(figure: Figure) -> str:
    spread = "" if figure.std is None else f" ± {figure.std:.2f}"
    return f"{figure.mean:.2f}{spread} {figure.origin}"


def _notes(settings: Sequence[Setting]) -> Iterator[str]:
    """Each note once, with the rows that it belongs to."""
    rows: dict[str, list[str]] = defaultdict(list)
    for setting in settings:
        if setting.row.note:
            rows[" ".join(setting.row.note.split())].append(setting.row.name)
    for note, names in rows.items():
        yield from _wrapped([*f"{', '.join(names)}:".split(), *note.split()])
