"""Tables of published settings: what a file must say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.config.tables import read
from perdure.errors import UserError

TABLE = """
source: Us 2026
benchmarks:
  seq-mnist:
    protocol: {optimizer: sgd, dataset.epochs: 1}
    rows:
      - method: er
        buffer: 200
        values: {optimizer.lr: 0.1}
        figures: [{metric: average_accuracy.class_il, mean: 80.4, std: 1, n: 10, origin: paper}]
      - {method: gdumb, per_class: 20}
      - {method: sgd, name: joint, values: {}, protocol: {training.mode: joint}}
"""


def table(folder: Path, text: str) -> Path:
    path = folder / "ours.yaml"
    path.write_text(text)
    return path


def test_a_table(tmp_path: Path) -> None:
    found = read(table(tmp_path, TABLE))
    assert list(found.settings) == [
        "ours/seq-mnist/er-200", "ours/seq-mnist/gdumb-20", "ours/seq-mnist/joint",
    ]  # fmt: skip
    er, gdumb, joint = found.settings.values()
    assert er.values == {"optimizer.lr": 0.1}
    assert er.row.figures[0].std == 1
    assert er.benchmark.dataset == "seq-mnist"
    assert gdumb.row.values is None
    assert joint.protocol == {"optimizer": "sgd", "dataset.epochs": 1, "training.mode": "joint"}


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("source: Us 2026", "", "source: is missing"),
        ("source:", "sources: x\nsource:", "sources: must be one of name, source, "),
        (TABLE, "- a list", "the file: must have keys"),
        (TABLE, "a: [", "no table of published settings ("),
        ("method: er\n", "methode: er\n", "rows[0].methode: must be one of method, "),
        ("optimizer.lr: 0.1", "dataset.epochs: 3", "values.dataset.epochs: must be model.…"),
        ("origin: paper", "origin: heard", "figures[0].origin=heard: must be paper, copy, "),
        ("mean: 80.4", "mean: high", "figures[0].mean=high: must be a float (percent)"),
        ("name: joint", "name: er-200", "rows: two rows are called er-200; set `name` in one"),
        ("protocol: {optimizer: sgd, dataset.epochs: 1}", "protocol: sgd", "protocol: must have"),
        ("    rows:\n", "    rows: none\n    row:\n", "rows: must be a list"),
    ],
    ids=[
        "missing",
        "unknown",
        "list",
        "syntax",
        "misspelt",
        "protocol-key",
        "origin",
        "mean",
        "twice",
        "no-protocol",
        "no-rows",
    ],
)
def test_what_is_no_table_is_refused_by_place(
    tmp_path: Path, before: str, after: str, sentence: str
) -> None:
    path = table(tmp_path, TABLE.replace(before, after))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert sentence in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.yaml")
