r"""Tables: one object that becomes Markdown, LaTeX (booktabs) or CSV; the best marked, with ties.

Texts of cells may come from files that others wrote: control characters are dropped, and what means
something in Markdown or LaTeX is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal, TypeAlias

from perdure.analysis.groups import Group, Repetition
from perdure.analysis.runs import LOWER_IS_BETTER
from perdure.analysis.statistics import LEVEL, TESTS, holm, least_p, least_pairs
from perdure.errors import printable
from perdure.tracking.formatting import scenario_name
from perdure.tracking.tables import csv_text

Mark: TypeAlias = Literal["", "best", "second"]
FORMATS = ("markdown", "latex", "csv")
_STARS: dict[Mark, str] = {"": "", "best": "**", "second": "_"}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "±": r"$\pm$", "–": "--", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A text of a table and whether it is the best or second best of its column."""

    text: str
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """A table for people, with the numbers behind it.

    Attributes:
        heads: of its columns.
        rows: cells, as many as heads.
        labels: how many columns, from the first on, are names; numbers stand at the right.
        notes: sentences below it.
        data_heads, data: the same as numbers in full precision, for CSV.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    labels: int
    notes: Sequence[str]
    data_heads: Sequence[str]
    data: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        """As Markdown with aligned columns: the best bold, the second in italics."""
        rows = [[_starred(cell) for cell in row] for row in self.rows]
        heads = [_plain(head) for head in self.heads]
        return markdown_table([heads, *rows], self.labels)

    def latex(self) -> str:
        r"""As `tabular` for booktabs: the best bold, the second underlined, the notes below it."""
        columns = "l" * self.labels + "r" * (len(self.heads) - self.labels)
        rows = [" & ".join(map(_latex_cell, row)) + r" \\" for row in self.rows]
        heads = " & ".join(latex_text(label(head)) for head in self.heads) + r" \\"
        notes = " ".join(map(latex_text, self.notes))
        return "\n".join([
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heads, r"\midrule", *rows,
            r"\bottomrule", r"\end{tabular}",
            *([rf"\par\smallskip{{\footnotesize {notes}\par}}"] if notes else []),
        ])  # fmt: skip

    def csv(self) -> str:
        """Its numbers in full precision: a line a row and metric."""
        return csv_text(self.data_heads, [[_flat(value) for value in row] for row in self.data])

    def text(self, form: str) -> str:
        """In one of `FORMATS`; the notes follow a Markdown table, and are left out of CSV."""
        if form == "csv":
            return self.csv().rstrip("\n")
        if form == "latex":
            return f"% needs \\usepackage{{booktabs}}\n{self.latex()}"
        return "\n\n".join([self.markdown(), *map(printable, self.notes)])


def markdown_table(rows: Sequence[Sequence[str]], labels: int = 1) -> str:
    """`rows`, the first of them the heads, as a Markdown table with aligned columns.

    Args:
        rows: as many cells in each.
        labels: columns of names, from the first on; the others stand at the right.
    """
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]  # a rule has hyphens
    rule = [
        "-" * width if place < labels else "-" * (width - 1) + ":"
        for place, width in enumerate(widths)
    ]
    lines = [_line(row, widths, labels) for row in (rows[0], rule, *rows[1:])]
    return "\n".join(lines)


def label(name: str) -> str:
    """The name of a metric for a paper: `forgetting.class_il` → `forgetting, class-IL`."""
    name, per, unit = name.partition(" per ")
    metric, dot, scenario = name.rpartition(".")
    shown = scenario_name(scenario)
    if dot and shown != scenario:
        return f"{metric.replace('_', ' ')}, {shown}{per}{unit}"
    return name.removeprefix("cost.").replace("_", " ") if name.startswith("cost.") else name


def latex_text(text: str) -> str:
    """`text` with every letter that means something in LaTeX escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(text))


# --- the best of a column -------------------------------------------------------------------------


def is_lower_better(metric: str) -> bool:
    """Whether less of `metric` is better."""
    return metric.startswith(LOWER_IS_BETTER)


def paired(a: Mapping[Repetition, float], b: Mapping[Repetition, float]) -> dict[Repetition, float]:
    """The value in `a` minus that in `b` of each seed and class order that both have."""
    return {repetition: value - b[repetition] for repetition, value in a.items() if repetition in b}


@dataclass(frozen=True)
class Marks:
    """Which groups are best and second best in a metric.

    Attributes:
        marks: one a group; several are `best` where the test cannot tell them from the best.
        undecided: whether the runs were too few for the test to tell some of them apart.
    """

    marks: tuple[Mark, ...]
    undecided: bool = False


def marks_of(
    groups: Sequence[Group], metric: str, test: str = "sign-flip", level: float = LEVEL
) -> Marks:
    """The best mean, what is not significantly worse by a paired test, and the best of the rest.

    The p values of all others against the best are adjusted together (Holm). Where a test could
    not reject at that level, whatever the values, nothing is called a tie.
    """
    sign = -1 if is_lower_better(metric) else 1
    values = [group.values(metric) for group in groups]
    means = {place: sign * mean(found.values()) for place, found in enumerate(values) if found}
    marks: list[Mark] = [""] * len(groups)
    if len(means) < 2:
        return Marks(tuple(marks))
    best = max(means, key=lambda place: means[place])
    others = [place for place in means if place != best]
    differences = [list(paired(values[best], values[place]).values()) for place in others]
    function: Callable[[Sequence[float]], float] = TESTS[test][1]
    adjusted = holm([function(each) if each else 1.0 for each in differences])
    possible = [least_p(test, len(each)) * len(others) <= level for each in differences]
    ties = {
        place
        for place, p, could in zip(others, adjusted, possible, strict=True)
        if means[place] == means[best] or (could and p > level)
    }
    for place in {best} | ties:
        marks[place] = "best"
    rest = [place for place in others if place not in ties]
    if rest:
        marks[max(rest, key=lambda place: means[place])] = "second"
    return Marks(tuple(marks), undecided=not all(possible))


def marks_note(undecided: bool, n_groups: int, test: str, level: float = LEVEL) -> str:
    """The rule of the marks, in sentences for the note of a table of `n_groups` rows."""
    name = TESTS[test][0]
    note = (
        f"Bold: the best mean, and every other that is not significantly worse by the {name}, "
        f"paired over seed and class order, at {level:g} over the column (Holm). "
        "Underlined (italic in Markdown): the best of the rest."
    )
    if undecided:
        least = least_pairs(test, level / max(1, n_groups - 1))
        note += (
            f" Where fewer than {least} pairs of runs leave the test without a decision, "
            "the best mean alone is bold."
        )
    return note


# --- letters --------------------------------------------------------------------------------------


def _line(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    padded = [
        cell.ljust(width) if place < labels else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _plain(text: str) -> str:
    return printable(text).replace("|", r"\|")


def _starred(cell: Cell) -> str:
    star = _STARS[cell.mark]
    return f"{star}{_plain(cell.text)}{star}"


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    if cell.mark == "best":
        return rf"\textbf{{{text}}}"
    return rf"\underline{{{text}}}" if cell.mark == "second" else text


def _flat(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else "" if value is None else value
