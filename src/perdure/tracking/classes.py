"""Per-class accuracy, confusion matrix and class names, as results.json holds them.

`class_names` are the names by label, `task_classes` the labels of each task. `per_class_accuracy`
is {class: fraction}, `confusion` {"classes": [class, …], "counts": [[int]]} with rows of true and
columns of predicted classes; a class there is its name, or its label where names are not unique.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Confusion(NamedTuple):
    """Names of classes, and how many examples of each (row) were taken for which (column)."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def class_name(results: Mapping[str, Any], label: Any) -> str:
    """The name of a class that is given as its label (3 or `3`) or by its name already."""
    names = _names(results)
    if isinstance(label, str) and (label in names or not label.isdecimal()):
        return label
    index = int(label)
    return names[index] if 0 <= index < len(names) else str(label)


def classes_by_task(results: Mapping[str, Any]) -> list[list[str]]:
    """The names of each task's classes; empty where the results do not say."""
    names = _names(results)
    tasks = results.get("task_classes") or []
    return [[names[label] for label in labels if 0 <= label < len(names)] for labels in tasks]


def per_class(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(name, accuracy) of each class that was measured, in the order of their first task."""
    found = results.get("per_class_accuracy") or {}
    return [(class_name(results, label), value) for label, value in found.items()]


def confusion_of(results: Mapping[str, Any]) -> Confusion | None:
    """The confusion counts; None where none were kept, or they do not fit their classes."""
    found = results.get("confusion")
    if not isinstance(found, Mapping) or not found.get("classes") or not found.get("counts"):
        return None
    names = tuple(class_name(results, label) for label in found["classes"])
    counts = tuple(tuple(map(int, row)) for row in found["counts"])
    if len(counts) != len(names) or any(len(row) != len(names) for row in counts):
        return None
    return Confusion(names, counts)


def _names(results: Mapping[str, Any]) -> Sequence[str]:
    """The names by label; where two are alike, each with its label."""
    names = [str(name) for name in results.get("class_names") or ()]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({label})" for label, name in enumerate(names)]
