"""report.html: metrics, charts, configuration and files of a run in one self-contained document."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import yaml

from perdure.errors import printable
from perdure.io.atomic import write_atomically
from perdure.io.run_files import ACCURACY, LOG, METRICS, RESULTS, RunFiles
from perdure.tracking.class_figures import buffer_composition
from perdure.tracking.colors import PAGE, accuracy_color, css, text_color
from perdure.tracking.drawing import Drawing, to_svg
from perdure.tracking.events import RunStart
from perdure.tracking.figures import accuracy_axis, accuracy_chart
from perdure.tracking.formatting import (
    duration,
    percent,
    run_title,
    scenario_name,
    training_rate,
)
from perdure.tracking.heatmaps import Rows
from perdure.tracking.html import html_document
from perdure.tracking.report_classes import classes_section, confusion_section, task_hints
from perdure.tracking.report_cost import cost_section
from perdure.tracking.report_parts import (
    cards,
    chart,
    command,
    facts,
    file_item,
    flattened,
    headline,
    notices,
    section,
    side_by_side,
    table,
)
from perdure.tracking.report_published import Measured, choice_of, published_section
from perdure.tracking.report_story import history_section, protocol, sentences
from perdure.tracking.run_data import RunData
from perdure.tracking.task_figures import (
    ends_by_scenario,
    forgetting_axis,
    forgetting_chart,
    retention_chart,
)
from perdure.tracking.training_figures import learning_rate, loss_curve

MOST_SIDE_BY_SIDE = 12
"""Columns of matrices that stand beside each other; larger ones below each other, and smaller."""
METRIC_NAMES = {
    "average_accuracy": "average accuracy",
    "average_accuracy_over_examples": "average accuracy over examples",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer",
    "average_anytime_accuracy": "average anytime accuracy",
    "min_accuracy": "minimum accuracy",
    "worst_case_accuracy": "worst-case accuracy",
}
MEANINGS = {
    "average_accuracy": "mean over all tasks after the last one",
    "average_accuracy_over_examples": "accuracy after the last task on the examples of all tasks, "
    "each counted once",
    "forgetting": "for each task but the last, its best accuracy before the end less that at the "
    "end; mean, in percentage points",
    "backward_transfer": "accuracy at the end less that just after the task was trained; mean, in "
    "percentage points",
    "forward_transfer": "accuracy before the task is trained less that of the untrained network; "
    "mean, in percentage points",
    "average_anytime_accuracy": "mean, over all evaluations, of the mean over the tasks seen",
    "min_accuracy": "lowest accuracy of each task after it was trained; mean",
    "worst_case_accuracy": "the last task's accuracy, and the lowest of each earlier one, weighted",
}
"""What a metric is, in a line."""
POINTS = {"forgetting", "backward_transfer", "forward_transfer"}
"""Metrics that are differences of percentages."""
OWN_FILES = (RESULTS, METRICS, ACCURACY, LOG)


def write_report(
    folder: Path, start: RunStart, results: dict[str, Any], error: str | None = None
) -> None:
    """Write `folder`/report.html from the run's results and what its folder holds."""
    typed = frozenset(map(_key, _overrides(folder)))
    data = RunData(results, RunFiles(folder).metrics)
    choice = choice_of(start.config)
    keys = f"every key as the run used it{'; typed ones are marked' if typed else ''}"
    sections = [
        _header(start, results, error),
        section("Accuracy matrix", _matrices(data)),
        section("Accuracy over time", _accuracy_charts(data)),
        section("Retention and forgetting", _by_task(data)),
        section("Classes", classes_section(results)),
        section("Confusion matrix", confusion_section(data)),
        section("Buffer", _chart(buffer_composition(data, PAGE), "exemplars by class")),
        section("Training", _training(data)),
        '<div class="side">',
        section("Metrics", _metrics(results)),
        section("Time", _phases(results)),
        "</div>",
        section("Cost", cost_section(results)),
        section("Published row", published_section(choice, _measured(results))),
        section("Protocol", facts(protocol(start.config))),
        section("Resumed and branched", history_section(results)),
        section("Configuration", facts(flattened(start.config), keys, typed)),
        section("Environment", facts(_environment(start, results))),
        section("Repeat it", _command(folder)),
        section("Files", _files(folder, results.get("status") == "finished")),
    ]
    html = html_document(
        title=f"{run_title(results)}, seed {results.get('seed', '?')}", body=sections
    )
    html = "\n".join(map(printable, html.splitlines()))
    write_atomically(RunFiles(folder).report, html.encode("utf-8", "replace"))


def _header(start: RunStart, results: dict[str, Any], error: str | None) -> str:
    status = str(results.get("status", "?"))
    style = status if status in {"finished", "interrupted", "failed", "running"} else "unknown"
    when = escape(str(results.get("timestamp", "")))
    problem = f'<p class="error">{escape(error)}</p>' if error else ""
    return (
        f'<header><h1>{escape(run_title(results))}</h1><p class="under">'
        f'<span class="status {style}">{escape(status)}</span> '
        f"seed {escape(str(results.get('seed', '?')))} · {when}</p>"
        f"{problem}{headline(sentences(results))}{notices(start.notices)}"
        f"{cards(_key_metrics(results))}</header>"
    )


def _key_metrics(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for metric in ("average_accuracy", "forgetting"):
        for scenario, value in (results.get(metric) or {}).items():
            if value is not None:
                unit = "points" if metric in POINTS else "%"
                yield (
                    f"{METRIC_NAMES[metric]}, {scenario_name(scenario)}",
                    f"{percent(value)} {unit}",
                )
    yield "tasks done", f"{results.get('tasks_done', 0)} of {results.get('n_tasks', '?')}"
    yield "optimizer steps", f"{results.get('global_step', 0):,}"
    total = (results.get("seconds") or {}).get("total")
    if total is not None:
        yield "time", duration(total)
    rate = training_rate(results)
    if rate is not None:
        yield "training steps per second", f"{rate:,.0f}"


def _matrices(data: RunData) -> str:
    tables = [_matrix(key, rows, data) for key, rows in data.matrices.items()]
    many = any(len(row) > MOST_SIDE_BY_SIDE for rows in data.matrices.values() for row in rows)
    return f'<div class="{"stack" if many else "side"}">{"".join(tables)}</div>' if tables else ""


def _matrix(scenario: str, rows: Rows, data: RunData) -> str:
    n_columns = max(map(len, rows))
    hints = task_hints(data.results, n_columns)
    heads = "".join(f'<th scope="col"{hint}>{task}</th>' for task, hint in enumerate(hints))
    body = "".join(
        f'<tr><th scope="row">{"joint" if data.is_joint else after}</th>'
        f"{''.join(map(_cell, row))}{'<td></td>' * (n_columns - len(row))}</tr>"
        for after, row in enumerate(rows)
    )
    many = " many" if n_columns > MOST_SIDE_BY_SIDE else ""
    axes = "columns: on task" if data.is_joint else "rows: after task, columns: on task"
    return (
        f"<figure><figcaption>{escape(scenario_name(scenario))}, percent ({axes})</figcaption>"
        f'<div class="scroll"><table class="matrix{many}"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></figure>"
    )


def _cell(accuracy: float | None) -> str:
    if accuracy is None or not math.isfinite(accuracy):
        return "<td>-</td>"
    color = accuracy_color(accuracy)
    style = f"background:{css(color)};color:{text_color(color)}"
    return f'<td style="{style}">{percent(accuracy, 1)}</td>'


def _accuracy_charts(data: RunData) -> str:
    """A chart a scenario; nothing before the second task, which makes the first line."""
    shown = {key: rows for key, rows in data.matrices.items() if len(rows) > 1}
    axis = accuracy_axis(shown)
    charts = [
        f"<figure><figcaption>{escape(scenario_name(key))}, percent</figcaption>"
        f'<div class="scroll chart">{to_svg(accuracy_chart(key, rows, axis, PAGE), inline=True)}'
        "</div></figure>"
        for key, rows in shown.items()
    ]
    return f'<div class="side">{"".join(charts)}</div>' if charts else ""


def _by_task(data: RunData) -> str:
    """Two charts a scenario: what was kept of each task, and what was lost."""
    shown = ends_by_scenario(data)
    axis = forgetting_axis(shown)
    if axis is None:
        return ""
    kept = [
        chart(retention_chart(ends, PAGE), f"{scenario_name(key)}: accuracy kept, percent")
        for key, ends in shown.items()
    ]
    lost = [
        chart(forgetting_chart(ends, axis, PAGE), f"{scenario_name(key)}: forgetting, points")
        for key, ends in shown.items()
    ]
    return side_by_side([*kept, *lost])


def _training(data: RunData) -> str:
    loss = loss_curve(data, PAGE)
    has_marks = loss is not None and any(getattr(s, "kind", "") == "mark" for s in loss.shapes)
    caption = "mean loss; dashed lines: a task begins" if has_marks else "mean loss"
    rate = learning_rate(data, PAGE)
    charts = [_chart(loss, caption), _chart(rate, "learning rate")]
    return side_by_side(filter(None, charts))


def _chart(drawing: Drawing | None, caption: str) -> str:
    return "" if drawing is None else chart(drawing, caption)


def _measured(results: dict[str, Any]) -> dict[str, Measured]:
    """The run's accuracies, by the names that published figures have."""
    return {
        f"{metric}.{scenario}": Measured(value, None, 1)
        for metric in METRIC_NAMES
        for scenario, value in (results.get(metric) or {}).items()
        if value is not None
    }


def _command(folder: Path) -> str:
    """The command that the run was started with, and the state of the code it ran."""
    overrides = _overrides(folder)
    commit = RunFiles(folder).code / "commit.txt"
    about = ""
    if commit.is_file():
        lines = commit.read_text(errors="replace").splitlines()[:3]
        about = f'<p class="under">code: {escape(", ".join(lines))}</p>'
    return command(f"perdure train {shlex.join(overrides)}") + about if overrides else about


def _metrics(results: dict[str, Any]) -> str:
    scenarios = list(results.get("average_accuracy") or {})
    rows = [
        (
            name,
            [percent((results.get(key) or {}).get(scenario)) for scenario in scenarios],
            MEANINGS[key],
        )
        for key, name in METRIC_NAMES.items()
        if any(value is not None for value in (results.get(key) or {}).values())
    ]
    return table(["percent", *map(scenario_name, scenarios)], rows)


def _phases(results: dict[str, Any]) -> str:
    wall, cpu = results.get("seconds") or {}, results.get("cpu_seconds") or {}
    rows = [(phase, [duration(wall[phase]), duration(cpu.get(phase, 0.0))], "") for phase in wall]
    return table(["phase", "wall clock", "processor"], rows)


def _overrides(folder: Path) -> list[str]:
    """The overrides with which the run was started."""
    path = RunFiles(folder).overrides
    found = yaml.safe_load(path.read_text()) if path.is_file() else []
    return [str(text) for text in found] if isinstance(found, list) else []


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _environment(start: RunStart, results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from (results.get("environment") or {}).items()
    yield "trained on", start.device
    yield "backbone parameters", f"{start.n_parameters:,}"


def _files(folder: Path, finished: bool) -> str:
    """Links to the files; a finished run removes its rolling checkpoints after its report."""
    checkpoints = [
        path
        for path in sorted(RunFiles(folder).checkpoints.glob("*.pt*"))
        if path.suffix != ".json" and not (finished and path.name.startswith("step-"))
    ]
    figures = sorted(RunFiles(folder).figures.glob("*.*"))
    rows = "".join(
        file_item(str(path.relative_to(folder)), path.stat().st_size)
        for path in [*(folder / name for name in OWN_FILES), *figures, *checkpoints]
        if path.is_file()
    )
    return f'<p class="path">{escape(str(folder))}</p><ul class="files">{rows}</ul>'
