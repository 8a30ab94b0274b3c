"""`budget.bytes`: the buffer takes what the rest leaves, whatever a method stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.errors import UserError
from perdure.run.evaluate import evaluate
from perdure.run.measurement import Request

SHORT = ("dataset.iterations=40", "backbone.hidden=[16]", "tracking.console=off")
NETWORK = 4 * (784 * 16 + 16 + 16 * 10 + 10)
"""Bytes of its parameters."""


@pytest.mark.parametrize(
    ("model", "fixed", "each"),
    [
        ("er", NETWORK, 784 + 8),
        ("derpp", NETWORK, 784 + 8 + 40),
        ("icarl", 2 * NETWORK, 784 + 8 + 8),
        ("agem", NETWORK, 784 + 8 + 8),
        ("gem", NETWORK, 784 + 8 + 8),
    ],
)
def test_what_is_kept_is_as_much_as_allowed(model: str, fixed: int, each: int) -> None:
    """Icarl keeps a teacher, and the task of each example, as its policy asks."""
    budget = fixed + 60 * each + each - 1
    results = perdure.train(f"model={model}", f"budget.bytes={budget}", *SHORT)
    cost = results["cost"]
    assert results["buffer_size"] == 60
    assert cost["exemplars"]["bytes_each"] == each
    assert cost["bytes"]["total"] - cost["bytes"]["exemplars"] == fixed
    assert cost["exemplars"]["held"] <= 60
    assert cost["bytes"]["total"] <= budget


def test_a_network_that_grows_counts_as_it_ends() -> None:
    results = perdure.train("model=independent", f"budget.bytes={10 * NETWORK}", *SHORT)
    total = results["cost"]["bytes"]["total"]
    assert total == 6 * NETWORK  # one a task, and the first weights
    with pytest.raises(UserError, match=f"Independent keeps {total}; must be {total} or more"):
        perdure.train("model=independent", f"budget.bytes={total - 1}", *SHORT)


def test_there_are_never_more_places_than_examples() -> None:
    results = perdure.train("model=er", f"budget.bytes={10**9}", *SHORT)
    assert results["buffer_size"] == 60_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("budget.bytes=5000",), f"keeps {NETWORK} bytes beside its buffer, and an example"),
        (("budget.bytes=90000", "buffer.size=9"), "budget.bytes=90000 with buffer.size: both say"),
        (
            ("budget.bytes=90000", "buffer=herding", "buffer.per_class=3"),
            "budget.bytes=90000 with buffer.per_class: both say",
        ),
        (("budget.bytes=0",), "budget.bytes=0: must be an integer, 1 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_cannot_be_is_refused(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        perdure.train("model=er", *words, *SHORT)


@pytest.mark.process
def test_it_is_resumed_evaluated_and_named_by_its_size(tmp_path: Path) -> None:
    words: tuple[Any, ...] = ("model=er", f"budget.bytes={NETWORK + 30 * 792}", *SHORT)
    folder = tmp_path / "run"
    perdure.train(*words, "dataset.stop_after=2", "checkpoint.save=true", folder=folder)
    resumed = perdure.train(*words, "checkpoint.save=true", "checkpoint.resume=auto", folder=folder)
    whole = perdure.train(*words)
    assert resumed["accuracy_matrix"] == whole["accuracy_matrix"]
    assert resumed["buffer_size"] == 30
    (file,) = folder.glob("checkpoints/er_seq-mnist_30_*_4.pt")
    measured = evaluate(Request(str(file), (f"output_root={tmp_path}",))).results
    assert measured["buffer_size"] == 30
    assert measured["accuracy_matrix"]["class_il"][-1] == whole["accuracy_matrix"]["class_il"][-1]
