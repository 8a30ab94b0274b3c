"""Event files, as TensorBoard itself reads them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import UserError
from perdure.tracking.tensorboard import TensorBoard

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → its (step, value), of all event files of a run."""
    read = accumulators.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_what_is_shown(run: Any) -> None:
    recorder = TensorBoard(run.folder)
    run.play(recorder)
    found = scalars(run.folder)
    assert [step for step, _ in found["train/loss"]] == list(range(20, 301, 20))
    matrix = run.results(3)["accuracy_matrix"]["class_il"]
    first = [value for _, value in found["test_accuracy_class_il/task_0"]]
    assert first[-1] == pytest.approx(matrix[2][0])
    _, mean = found["test_accuracy_class_il/mean"][-1]
    assert mean == pytest.approx(sum(matrix[2]) / 3)
    assert found["average_accuracy/class_il"][-1] == (300, pytest.approx(mean))
    assert "forward_transfer/class_il" not in found  # it is not defined


def test_steps_that_are_trained_again_are_shown_once(run: Any) -> None:
    killed = TensorBoard(run.folder)
    for event in (run.start(), *run.task(0), *run.task(1)):
        killed.receive(event)
    assert killed._writer is not None
    killed._writer.flush()
    resumed = TensorBoard(run.folder)
    for event in (run.start(1), *run.task(1), *run.task(2), run.end(3)):
        resumed.receive(event)
    assert [step for step, _ in scalars(run.folder)["train/loss"]] == list(range(20, 301, 20))
    assert len(list((run.folder / "tensorboard").iterdir())) == 2


def test_without_the_package(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'perdure\[tensorboard\]'"):
        TensorBoard(run.folder)
