"""What is said of paired runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs_of import make_run

from perdure.analysis.arms import Arm, compare
from perdure.analysis.comparison import Comparison, notes_of, table_of
from perdure.analysis.groups import Group
from perdure.analysis.runs import Run, read, selected

ACCURACY = "average_accuracy.class_il"
SIX = (0.05, 0.04, 0.06, 0.03, 0.05, 0.04)


def of(
    differences: tuple[float, ...], metric: str = ACCURACY, p: float = 1.0, **more: Any
) -> Comparison:
    names = ("derpp", "er")
    more = {"n_seeds": len(differences), "p": p, "adjusted": p, **more}
    return Comparison(Group({}), Group({}), names, ("model",), metric, differences, **more)


def test_a_claim() -> None:
    sentence = of(SIX, p=0.03125).sentence()
    assert sentence.startswith(f"derpp beats er on {ACCURACY} by 4.50 points (95 % interval 3.")
    assert sentence.endswith(", p = .031, exact sign-flip test, n = 6 seeds)")


def test_the_other_way_round() -> None:
    """The loser is named second, and the interval is that of the lead."""
    worse = of(tuple(-d for d in SIX), p=0.03125)
    assert worse.verdict == "worse"
    sentence = worse.sentence()
    assert sentence.startswith(f"er beats derpp on {ACCURACY} by 4.50 points (95 % interval 3.")
    less = of(tuple(-d for d in SIX), "forgetting.class_il", p=0.03125)
    assert less.sentence().startswith(
        "derpp beats er on forgetting.class_il by 4.50 points (95 % interval 3."
    )


def test_too_few_pairs_for_a_verdict() -> None:
    five = of(SIX[:5], p=0.0625)
    assert (five.verdict, five.more) == ("too few pairs", 1)
    assert five.sentence().startswith(
        f"derpp and er cannot be told apart on {ACCURACY} with 5 seeds, whose smallest possible p "
        "is .062, above 0.05: at least 1 more seed needed; the difference is +4.60 points"
    )
    # Of 4 comparisons one must reach 0.0125.
    assert of(SIX, p=0.03125, adjusted=0.125, of=4).verdict == "too few pairs"
    assert "at least 2 more seeds needed" in of(SIX, p=0.03125, adjusted=0.125, of=4).sentence()
    assert "at least 4 more seeds needed" in of((0.05, 0.04), p=0.5).sentence()


def test_what_a_claim_would_need() -> None:
    weak = of((0.05, -0.04, 0.06, -0.03, 0.05, 0.01, 0.0, -0.02), p=0.4)
    assert weak.verdict == "not told apart"
    assert weak.more is not None
    assert f"would need about {weak.more} more seeds (80 % power)" in weak.sentence()
    none = of((0.05, -0.05, 0.02, -0.02, 0.01, -0.01), p=1.0)
    assert "no number of seeds that anybody runs would show it" in none.sentence()
    few = of((0.05, 0.04), p=0.2, test="t")
    assert "so few seeds do not say how many a claim would need" in few.sentence()


def test_pairs_of_seeds_and_orders() -> None:
    assert of(SIX, p=0.03125, n_seeds=3).sentence().endswith("n = 6 pairs of 3 seeds)")


def test_the_table_has_the_numbers(tmp_path: Path) -> None:
    for seed, difference in enumerate(SIX):
        make_run(tmp_path / f"a{seed}", "derpp", seed, accuracy=0.5 + difference)
        make_run(tmp_path / f"b{seed}", "er", seed, accuracy=0.5, config={"optimizer": {"lr": 0.2}})
    make_run(tmp_path / "more", "er", 9, config={"optimizer": {"lr": 0.2}})
    runs = read([tmp_path])
    arms = [Arm(m, selected(runs, [f"model={m}"]), ("model",)) for m in ("derpp", "er")]
    (found,) = compare(arms)
    assert (found.p, found.adjusted, found.n) == (0.03125, 0.03125, 6)
    notes = notes_of([found])
    table = table_of([found], notes)
    cells = [cell.text for cell in table.rows[0]]
    assert cells[:3] == ["derpp - er", ACCURACY, "+4.50"]
    assert cells[4:6] == [".031", ".031"]
    assert cells[-2:] == ["6", "better"]
    row = dict(zip(table.data_heads, table.data[0], strict=True))
    assert row["difference"] == pytest.approx(0.045)
    assert row["low"] < 0.045 < row["high"]
    assert (row["mean_b"], row["runs_b"], row["verdict"]) == (0.5, 7, "better")
    assert "derpp and er also differ in optimizer.lr (0.1, 0.2)." in notes
    assert any(note.startswith("1 run of derpp and er without a partner") for note in notes)
    assert "Sign-flip test, two-sided, at 0.05; " in notes[0]


def test_narrow_intervals_are_said_to_be() -> None:
    run = Run(Path(), "finished", results={"average_accuracy": {"class_il": 0.5}})
    group = Group({}, {("0", "0"): run})
    comparison = Comparison(group, group, ("a", "b"), (), ACCURACY, SIX[:4], 4)
    assert any("fewer than 6 pairs the interval holds" in note for note in notes_of([comparison]))
    assert of(SIX[:2]).interval is None
