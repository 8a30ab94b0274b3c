"""What is settled when a run is put together: the number of epochs in the names of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

import perdure
from perdure.config.typed import typed
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.run.assemble import n_epochs

pytestmark = pytest.mark.process

UNEQUAL = ("model=sgd", "dataset.batch_size=1000", "dataset.iterations=26")
"""seq-mnist: 13, 13 and 12 steps an epoch, so that 26 steps are 2, 2 and 3 epochs."""


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*.pt"))


def test_iterations_on_unequal_tasks_give_one_number_of_epochs(tmp_path: Path) -> None:
    """That of the first task, when the run is resumed in a later one too."""
    run = tmp_path / "run"
    options = (*UNEQUAL, "checkpoint.save=true", "tracking.console=off")
    perdure.train(*options, "dataset.stop_after=2", folder=run)
    rest = ("dataset.stop_after=3", "checkpoint.save=true", "tracking.console=off")
    results = perdure.train(f"checkpoint.load={run}", *rest)
    start = f"sgd_seq-mnist_0_2_{results['timestamp']}"
    assert names(run) == [f"{start}_{task}.pt" for task in range(3)]
    assert (run / "checkpoints" / "task2.3_full.pth").is_file(), "the third task took 3 epochs"
    assert results["n_epochs"] == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param(["dataset.epochs=7"], 7, id="epochs"),
        pytest.param(["dataset.iterations=1", "dataset.epochs=7"], 1, id="less-than-one"),
        pytest.param(["dataset.iterations=24"], 2, id="exactly"),
        pytest.param(["dataset.iterations=25"], 3, id="one-step-more"),
        pytest.param(["dataset.iterations=61", "training=joint"], 2, id="joint"),
    ],
)
def test_epochs_of_the_first_task(tiny: Arrays, overrides: list[str], expected: int) -> None:
    """Tasks of 120 examples, in batches of 10."""
    config = typed(perdure.compose("model=sgd", *overrides))
    assert n_epochs(config, ClassIncremental(tiny, 5)) == expected
