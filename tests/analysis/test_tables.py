"""Tables: letters, marks, ties."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from perdure.analysis.groups import Group
from perdure.analysis.runs import Run
from perdure.analysis.tables import (
    Cell,
    Table,
    label,
    latex_text,
    markdown_table,
    marks_note,
    marks_of,
    paired,
)

ACCURACY, FORGETTING = "average_accuracy.class_il", "forgetting.class_il"


def group(*values: float, metric: str = ACCURACY) -> Group:
    """A group of one run a value, of seeds 0, 1, …"""
    name, _, scenario = metric.partition(".")
    runs = {
        (str(seed), "0"): Run(Path(), "finished", results={name: {scenario: value}})
        for seed, value in enumerate(values)
    }
    return Group({}, runs)


def test_columns_are_aligned() -> None:
    assert markdown_table([("setting", "CPU s"), ("er", "6.1"), ("seq-mnist", "10.25")]) == (
        "| setting   | CPU s |\n| --------- | ----: |\n| er        |   6.1 |\n| seq-mnist | 10.25 |"
    )


TABLE = Table(
    ["model", "runs", "average_accuracy.class_il"],
    [
        [Cell("er_a|b"), Cell("2"), Cell("50.00 ± 1.00", "second")],
        [Cell("\x1b[1m{x}\\y"), Cell("2"), Cell("60.00 ± 1.00", "best")],
    ],
    1,
    ["5 % & more."],
    ["model", "mean"],
    [["er_a|b", 0.5], ["a\nb", None]],
)


def test_markdown() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2].startswith(r"| er_a\|b ")
    assert lines[2].endswith(" _50.00 ± 1.00_ |")
    assert lines[3].endswith(" **60.00 ± 1.00** |")
    assert "\x1b" not in lines[3]
    assert TABLE.text("markdown").endswith("\n\n5 % & more.")


def test_latex_is_balanced_and_escaped() -> None:
    text = TABLE.latex()
    assert r"model & runs & average accuracy, class-IL \\" in text
    assert r"er\_a|b & 2 & \underline{50.00 $\pm$ 1.00} \\" in text
    assert r" [1m\{x\}\textbackslash{}y & 2 & \textbf{60.00 $\pm$ 1.00} \\" in text
    assert r"5 \% \& more." in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert r"\begin{tabular}{lrr}" in text


@pytest.mark.parametrize("letter", list("\\{}$&#%_^~<>"))
def test_every_letter_of_latex_is_escaped(letter: str) -> None:
    assert latex_text(letter) != letter


def test_csv() -> None:
    assert TABLE.csv() == "model,mean\ner_a|b,0.5\na b,\n"


def test_labels() -> None:
    assert label(FORGETTING) == "forgetting, class-IL"
    assert label(f"{ACCURACY} per MB") == "average accuracy, class-IL per MB"
    assert (label("cost.cpu_seconds"), label("buffer.size")) == ("cpu seconds", "buffer.size")


# --- marks ----------------------------------------------------------------------------------------


def marks(*groups: Sequence[float], metric: str = ACCURACY) -> tuple[tuple[str, ...], bool]:
    found = marks_of([group(*values, metric=metric) for values in groups], metric)
    return found.marks, found.undecided


BASE = [0.50, 0.52, 0.51, 0.49, 0.53, 0.50, 0.48, 0.51]


def plus(*more: float) -> list[float]:
    """Eight values, each higher by one of `more`, in turn."""
    return [value + more[k % len(more)] for k, value in enumerate(BASE)]


def test_what_is_not_worse_is_bold_too() -> None:
    best, equal, worse, worst = plus(0.1), plus(0.13, 0.06), plus(0.0), plus(-0.2)
    found, undecided = marks(worst, best, equal, worse)
    assert found == ("", "best", "best", "second")
    assert not undecided


def test_less_forgetting_is_better() -> None:
    assert marks(plus(0.0), plus(-0.1), metric=FORGETTING) == (("second", "best"), False)


def test_few_pairs_make_no_ties() -> None:
    """Five pairs cannot reject at 0.05: it would make a tie of everything."""
    assert marks(BASE[:5], plus(0.001)[:5]) == (("second", "best"), True)
    assert marks(BASE[:5], BASE[:5]) == (("best", "best"), True)
    note = marks_note(True, 2, "sign-flip")
    assert "fewer than 6 pairs" in note
    assert "fewer than 7 pairs" in marks_note(True, 4, "sign-flip")
    assert "pairs of runs leave" not in marks_note(False, 4, "sign-flip")


def test_marks_with_nothing_to_compare() -> None:
    assert marks(BASE) == (("",), False)
    assert marks([], BASE, plus(-0.1)) == (("", "best", "second"), False)


def test_pairs_are_of_one_seed_and_order() -> None:
    a, b = {("0", "0"): 0.5, ("1", "0"): 0.7}, {("1", "0"): 0.4, ("0", "1"): 0.1}
    assert paired(a, b) == {("1", "0"): pytest.approx(0.3)}
