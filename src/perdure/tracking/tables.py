"""Tables as CSV: the accuracy matrices in long form, and the numbers behind other figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from perdure.tracking.history import plain


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, with newlines alone at the ends of lines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def accuracy_rows(results: Mapping[str, Any]) -> str:
    """The accuracy matrices in long form (CSV): a row a (trained task, evaluated task) pair."""
    matrices = results.get("accuracy_matrix") or {}
    joint = results.get("training") == "joint"
    table = (
        ["joint" if joint else after, task, *map(plain, accuracies)]
        for after, rows in enumerate(zip(*matrices.values(), strict=True))
        for task, accuracies in enumerate(zip(*rows, strict=True))
    )
    return csv_text(["after_task", "task", *matrices], table)
