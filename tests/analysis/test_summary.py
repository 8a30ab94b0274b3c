"""The summary of runs, as tables and as files."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from runs_of import make_run

from perdure.analysis.groups import grouped
from perdure.analysis.runs import read
from perdure.analysis.summary import CSV, LATEX, MARKDOWN, default_metrics, summary_of, table_of

ACCURACY = "average_accuracy.class_il"
MATRIX = [[0.9], [0.5, 0.7], [0.4, 0.6, 0.8]]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for job, (model, seed, accuracy) in enumerate(
        [("er", 0, 0.5), ("er", 1, 0.7), ("sgd", 0, 0.2), ("sgd", 1, 0.2)]
    ):
        results = {
            "n_tasks": 3,
            "accuracy_matrix": {"class_il": MATRIX},
            "forgetting": {"class_il": 0.25},
        }
        make_run(tmp_path / str(job), model, seed, accuracy=accuracy, results=results)
    return tmp_path


def test_cells(sweep: Path) -> None:
    groups = grouped(read([sweep]))
    table = table_of(groups, default_metrics(groups), ["cost.bytes"])
    assert table.heads == [
        "model", "runs", ACCURACY, f"{ACCURACY} per MB", "forgetting.class_il",
        "forgetting.class_il per MB", "cost.bytes", "cost.flops", "cost.cpu_seconds",
    ]  # fmt: skip
    er, sgd = [[cell.text for cell in row] for row in table.rows]
    # 1000 bytes are a thousandth of a megabyte.
    assert er == [
        "er", "2", "60.00 ± 14.14", "6e+04 ± 1.41e+04", "25.00 ± 0.00", "2.5e+04 ± 0",
        "1.0 kB", "7 FLOP", "2.5 s",
    ]  # fmt: skip
    assert sgd[2] == "20.00 ± 0.00"
    assert [row[2].mark for row in table.rows] == ["best", "second"]
    assert [row[6].mark for row in table.rows] == ["", ""]  # costs are not marked


def test_average_incremental_accuracy_is_that_of_the_matrix(sweep: Path) -> None:
    run = read([sweep])[0]
    expected = (0.9 + (0.5 + 0.7) / 2 + (0.4 + 0.6 + 0.8) / 3) / 3
    assert run.metrics["average_incremental_accuracy.class_il"] == pytest.approx(expected)


def test_crossed_seeds_and_orders_are_shown(tmp_path: Path) -> None:
    for order in (0, 1):
        for seed in (0, 1):
            make_run(
                tmp_path / f"{order}{seed}", "er", seed, f"dataset.seed={order}",
                accuracy=0.5 + 0.1 * order + 0.02 * seed,
                config={"dataset": {"seed": order, "class_order": "random"}},
            )  # fmt: skip
    table = table_of(grouped(read([tmp_path])), [ACCURACY])
    assert table.heads == ["setting", "runs", "seeds", "orders", ACCURACY]
    assert [cell.text for cell in table.rows[0]] == [
        "all", "4", "2", "2", "56.00 ± 5.89 (seeds ± 1.41, orders ± 7.07)",
    ]  # fmt: skip
    assert any(note.startswith("Where class orders have several seeds") for note in table.notes)


def test_files(sweep: Path) -> None:
    make_run(sweep / "4", "er", 2, results={"status": "failed"})
    summary_of("Sweep x", read([sweep])).write(sweep)
    text = (sweep / MARKDOWN).read_text()
    assert text.startswith("# Sweep x\n\n4 of 5 runs finished, 1 failed.\n\n## class-IL\n")
    assert "average_incremental_accuracy.class_il" in text
    assert "## cost" in text
    assert text.endswith("## not finished\n\n- `4`: failed\n")
    latex = (sweep / LATEX).read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert "model & runs & average accuracy & average incremental accuracy & forgetting " in latex
    rows = list(csv.DictReader((sweep / CSV).open()))
    (row,) = [r for r in rows if r["setting"] == "model=er" and r["metric"] == ACCURACY]
    assert float(row["mean"]) == pytest.approx(0.6)
    assert float(row["std"]) == pytest.approx(0.1414, abs=1e-4)
    assert (row["runs"], row["seeds"], row["orders"], row["model"]) == ("2", "2", "1", "er")


def test_nothing_has_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "0", "er", 0, results={"status": "running"})
    summary_of("Sweep x", read([tmp_path])).write(tmp_path)
    assert "0 of 1 runs finished, 1 running." in (tmp_path / MARKDOWN).read_text()
