"""report.html of many runs (a sweep): headline, figures, costs, protocol, warnings, how to repeat.

One self-contained file, with figures/ beside it. Run folders are foreign data: one that is damaged
is named on the page and ends nothing. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from perdure.analysis import report_facts as about
from perdure.analysis.curves import (
    Group,
    Spread,
    groups_of,
    metric,
    scenarios_of,
)
from perdure.analysis.figures import FIGURES, Plot, View
from perdure.analysis.runs import Run, read
from perdure.errors import UserError, printable
from perdure.io.atomic import write_atomically
from perdure.io.run_files import FIGURES as FIGURES_FOLDER
from perdure.io.run_files import REPORT, RunFiles
from perdure.tracking.colors import PAGE, PAPER
from perdure.tracking.drawing import to_svg
from perdure.tracking.formatting import byte_size, duration, operations, percent, scenario_name
from perdure.tracking.html import html_document
from perdure.tracking.report_parts import (
    cards,
    chart,
    command,
    facts,
    file_item,
    headline,
    notices,
    section,
    side_by_side,
    table,
)

MOST_CONFUSIONS, MOST_NAMED = 6, 20
"""Groups, and classes of each, up to which confusion matrices are on the page."""
MOST_RUNS = 400
"""Runs that are listed one by one."""

logger = logging.getLogger("perdure")


def write(folder: Path, runs: Sequence[Run] | None = None) -> Path | None:
    """Write `folder`/report.html and its figures, about the run folders below as they are now.

    This is for the end of a sweep: it raises nothing, since a report must not end a sweep.

    Args:
        folder: of the sweep.
        runs: its jobs, where they are read already.

    Returns:
        The report, or None where there is no run, or it could not be written, which is logged.
    """
    try:
        return write_report(folder, read([folder]) if runs is None else runs)
    except UserError as error:
        logger.info("no report of %s: %s", folder, error)
    except Exception:
        logger.warning("the report of %s could not be written", folder, exc_info=True)
    return None


def write_report(out: Path, runs: Sequence[Run], by: Sequence[str] | None = None) -> Path:
    """Write `out`/report.html about `runs`, and the figures on it into `out`/figures.

    Args:
        out: a folder, which is made where it is missing.
        runs: finished and others.
        by: keys whose values make a group; None is whatever varies but seeds and class orders.

    Returns:
        The report.

    Raises:
        UserError: `out` is a run's folder, or its figures are a link; no run has a key of `by`.
        OSError: nothing can be written there.
    """
    figures = out / FIGURES_FOLDER
    if RunFiles(out).results.exists():
        raise UserError(f"{out}: is the folder of one run, which has its own {REPORT}; name a "
                        "folder above it, or another --out")  # fmt: skip
    if figures.is_symlink():
        raise UserError(f"{figures}: a link: nothing is written through it; choose another --out")
    groups = groups_of(runs, by)
    plots = list(_plots(groups))
    if plots:
        figures.mkdir(parents=True, exist_ok=True)
    for plot in _plots(groups, on_page=False):
        # Drawn again at any time, so none waits for the disk.
        svg = to_svg(plot.drawing).encode()
        write_atomically(figures / f"{plot.name}.svg", svg, durable=False)
        write_atomically(figures / f"{plot.name}.csv", plot.table.encode(), durable=False)
    page = html_document(about.title_of(runs), _sections(out, runs, groups, plots))
    page = "\n".join(map(printable, page.splitlines()))
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / REPORT, page.encode("utf-8", "replace"))
    return out / REPORT


def _plots(groups: Sequence[Group], on_page: bool = True) -> Iterator[Plot]:
    """What is drawn: everything but large confusion matrices, of which `perdure plot` has more."""
    small = len(groups) <= MOST_CONFUSIONS and all(
        not isinstance(names := run.results.get("class_names"), list) or len(names) <= MOST_NAMED
        for group in groups
        for run in group.runs
    )
    for scenario in scenarios_of(groups):
        for name, figure in FIGURES.items():
            if name != "confusion" or small:
                # Confusions are on white in a dark page too, where the light colors of rare ones
                # would stand out most.
                follows = on_page and name != "confusion"
                yield from figure(View(groups, scenario, PAGE if follows else PAPER))


def _sections(
    out: Path, runs: Sequence[Run], groups: Sequence[Group], plots: Sequence[Plot]
) -> Iterator[str]:
    scenarios = scenarios_of(groups)
    yield _header(runs, groups, scenarios)
    yield section("Results", _results(groups, scenarios))
    for heading, names in (
        ("Accuracy over tasks", ("accuracy_",)),
        ("Retention and forgetting", ("retention_", "forgetting_")),
        ("Accuracy against cost", ("pareto_",)),
        ("Class orders", ("orders_",)),
    ):
        charts = [chart(p.drawing, p.caption) for p in plots if p.name.startswith(names)]
        yield section(heading, side_by_side(charts))
    confused = [
        chart(p.drawing, p.caption, own_size=True) for p in plots if p.name.startswith("confusion_")
    ]
    yield section("Confusion matrices", side_by_side(confused))
    yield section("Cost", _costs(groups))
    yield section("Published rows", about.published_rows(groups))
    yield section("Protocol", facts(about.protocol(runs)))
    yield section("Runs", _runs(out, runs))
    yield section("Environment", facts(about.environment(runs)))
    yield section("Repeat it", "".join(map(command, about.commands(out, runs))))
    yield section("Files", _files(out))


def _header(runs: Sequence[Run], groups: Sequence[Group], scenarios: Sequence[str]) -> str:
    counts = Counter(run.status for run in runs)
    status = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    style = "finished" if counts["finished"] == len(runs) else "interrupted"
    return (
        f'<header><h1>{escape(about.title_of(runs))}</h1><p class="under">'
        f'<span class="status {style}">{escape(status)}</span></p>'
        f"{headline(about.sentences(runs, groups, scenarios))}"
        f"{notices(about.warnings(runs, groups))}{cards(_cards(runs, groups, scenarios))}</header>"
    )


def _cards(
    runs: Sequence[Run], groups: Sequence[Group], scenarios: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for scenario in scenarios:
        best = about.best_of(groups, scenario)
        if best is not None:
            group, spread = best
            yield f"highest {scenario_name(scenario)}: {group.name}", f"{_percent(spread)} %"
    yield "runs finished", f"{sum(run.is_finished for run in runs)} of {len(runs)}"
    seconds = [run.metrics["cost.seconds"] for run in runs if "cost.seconds" in run.metrics]
    if seconds:
        yield "time of all runs together", duration(sum(seconds))


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return percent(spread.mean) + ("" if spread.std is None else f" ± {percent(spread.std)}")


def _results(groups: Sequence[Group], scenarios: Sequence[str]) -> str:
    """A row a group; the deviation is over its runs."""
    heads, names = ["percent, mean ± standard deviation", "runs"], []
    for kind, title in (("average_accuracy", "average accuracy"), ("forgetting", "forgetting")):
        for scenario in scenarios:
            name = f"{kind}.{scenario}"
            if any(metric(group, name) for group in groups):
                names.append(name)
                heads.append(f"{title}, {scenario_name(scenario)}")
    rows = [
        (g.name, [str(len(g.runs)), *(_percent(metric(g, name)) for name in names)], "")
        for g in groups
    ]
    return table(heads, rows)


def _costs(groups: Sequence[Group]) -> str:
    """Means over each group's runs."""
    columns = (
        ("cost.exemplar_bytes", "exemplars", lambda v: byte_size(round(v))),
        ("cost.bytes", "held in all", lambda v: byte_size(round(v))),
        ("cost.flops", "operations", operations),
        ("cost.peak_memory", "peak memory", lambda v: byte_size(round(v))),
        ("cost.seconds", "time", duration),
        ("cost.cpu_seconds", "processor", duration),
    )
    known = [c for c in columns if any(metric(group, c[0]) for group in groups)]
    rows = []
    for group in groups:
        found = [(metric(group, name), shown) for name, _, shown in known]
        rows.append((group.name, [shown(s.mean) if s else "-" for s, shown in found], ""))
    return table(["mean of a run", *(title for _, title, _ in known)], rows) if known else ""


def _runs(out: Path, runs: Sequence[Run]) -> str:
    """A line a run, with a link to its own report."""
    keys = about.keys_that_vary(runs)
    scenarios = [s for s in ("class_il", "task_il", "domain_il")
                 if any(f"average_accuracy.{s}" in run.metrics for run in runs)]  # fmt: skip
    heads = ["run", *keys, "status", *(f"{scenario_name(s)}, percent" for s in scenarios), "time"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(_run(out, run, keys, scenarios) for run in runs[:MOST_RUNS])
    listing = (
        f'<div class="scroll"><table class="metrics"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    if len(runs) > MOST_RUNS:
        listing += f'<p class="under">and {len(runs) - MOST_RUNS} more</p>'
    if len(runs) <= 12:
        return listing
    return f"<details><summary>each of {len(runs)} runs</summary>{listing}</details>"


def _run(out: Path, run: Run, keys: Iterable[str], scenarios: Iterable[str]) -> str:
    cells = [
        *(run.setting(key) for key in keys),
        run.status,
        *(percent(run.metrics.get(f"average_accuracy.{s}")) for s in scenarios),
        duration(run.metrics["cost.seconds"]) if "cost.seconds" in run.metrics else "-",
    ]
    where = _relative(run.folder, out)
    name = escape(where)
    if RunFiles(run.folder).report.is_file():
        name = f'<a href="{escape(quote(f"{where}/{REPORT}"))}">{name}</a>'
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{escape(c)}</td>" for c in cells)}</tr>'


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()


def _files(out: Path) -> str:
    """Links to the figures and their numbers."""
    folder = out / FIGURES_FOLDER
    found = sorted(path for path in folder.glob("*.*") if path.is_file())
    rows = "".join(
        file_item(f"{FIGURES_FOLDER}/{path.name}", path.stat().st_size) for path in found
    )
    listing = f'<p class="path">{escape(str(out))}</p><ul class="files">{rows}</ul>'
    return f"<details><summary>{len(found)} files of figures</summary>{listing}</details>"
