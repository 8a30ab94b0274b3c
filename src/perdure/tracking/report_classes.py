"""The part of report.html about classes: their names, accuracy of each, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from perdure.tracking.class_figures import confusion_matrix
from perdure.tracking.classes import classes_by_task, per_class
from perdure.tracking.colors import PAPER
from perdure.tracking.drawing import to_svg
from perdure.tracking.formatting import percent
from perdure.tracking.run_data import RunData


def task_hints(results: Mapping[str, Any], n_tasks: int) -> list[str]:
    """For each task a `title` attribute with its classes, empty where they are not known."""
    known = [f' title="{escape(", ".join(names))}"' if names else ""
             for names in classes_by_task(results)]  # fmt: skip
    return (known + [""] * n_tasks)[:n_tasks]


def classes_section(results: Mapping[str, Any]) -> str:
    """Each task's classes by name, with a bar of its accuracy where that was measured."""
    accuracy = dict(per_class(results))
    groups = _groups(results, accuracy)
    if not accuracy:
        rows = "".join(
            f"<div><dt>{escape(heading)}</dt><dd>{escape(', '.join(names))}</dd></div>"
            for heading, names in groups
        )
        return f'<dl class="facts">{rows}</dl>' if rows else ""
    tables = "".join(_bars(heading, names, accuracy) for heading, names in groups)
    return f'<div class="classes">{tables}</div>'


def _groups(
    results: Mapping[str, Any], accuracy: Mapping[str, float]
) -> list[tuple[str, list[str]]]:
    """(heading, class names): a task each, or one where all have the same; then what is left."""
    tasks = classes_by_task(results)
    if len(tasks) > 1 and all(names == tasks[0] for names in tasks):
        groups = [("every task", tasks[0])]
    else:
        groups = [(f"task {task}", names) for task, names in enumerate(tasks)]
    named = {name for _, names in groups for name in names}
    others = [name for name in accuracy if name not in named]
    return [*groups, ("other classes" if named else "", others)] if others else groups


def _bars(heading: str, names: list[str], accuracy: Mapping[str, float]) -> str:
    rows = "".join(_row(name, accuracy) for name in names)
    caption = f"<caption>{escape(heading)}</caption>" if heading else ""
    return f'<table class="bars">{caption}<tbody>{rows}</tbody></table>'


def _row(name: str, accuracy: Mapping[str, float]) -> str:
    head = f'<tr><th scope="row">{escape(name)}</th>'
    if name not in accuracy:
        return f"{head}</tr>"
    value = accuracy[name]
    share = min(max(0.0, value or 0.0), 1.0)
    bar = f'<div><div style="width:{100 * share:.1f}%"></div></div>'
    return f'{head}<td>{percent(value, 1)}</td><td class="bar">{bar}</td></tr>'


def confusion_section(data: RunData) -> str:
    """The confusion matrix as SVG; nothing where it was not counted or has too many classes."""
    drawing = confusion_matrix(data, PAPER)
    if drawing is None:
        return ""
    caption = (
        "after the last evaluation: percent of a true class's examples (row) by predicted class "
        "(column); empty: none"
    )
    # At its own size, so that the names stay readable; a phone scrolls. On white also in a dark
    # page, where the light colors of rare confusions would stand out most.
    paper = f'<div class="paper" style="width:{drawing.width:.0f}px">'
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="scroll">'
        f"{paper}{to_svg(drawing, inline=True)}</div></div></figure>"
    )
