"""A checkpoint measured without training gives what its run reported, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import perdure
from perdure.checkpoint.core.format import read
from perdure.checkpoint.interop.foreign import open_file
from perdure.config.compose import register
from perdure.datasets.arrays import Arrays
from perdure.errors import UserError
from perdure.run.evaluate import Outcome, evaluate
from perdure.run.measurement import Request
from perdure.run.predictions import Predictions

FOREIGN = Path(__file__).parents[1] / "fixtures" / "foreign"
QUIET = "tracking.console=off"
RUN = ("model=er", "buffer.size=50", "checkpoint.save=true", "recipe=none", QUIET)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of five tasks, evaluated within each too; classes in another order."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    perdure.train(
        *RUN, "dataset.epochs=2", "dataset.batch_size=500", "dataset.stop_after=3",
        "dataset.class_order=random", "training.evaluate_every=1", "checkpoint.top_k=5",
        "optimizer.lr=0.1", folder=folder,
    )  # fmt: skip
    return folder


def measured(root: Path, reference: Any, *words: str, **options: Any) -> Outcome:
    register()
    return evaluate(Request(str(reference), (*words, f"output_root={root / 'found'}"), **options))


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def last_rows(results: dict[str, Any]) -> dict[str, list[float]]:
    return {name: rows[-1] for name, rows in results["accuracy_matrix"].items()}


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(), path.lstat().st_mtime_ns
        )
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


@pytest.mark.process
def test_a_run_folder_gives_what_the_run_reported(ended: Path, tmp_path: Path) -> None:
    before, wanted = files_of(ended), results_of(ended)
    outcome = measured(tmp_path, ended)
    assert files_of(ended) == before
    found = results_of(outcome.folder)
    assert json.loads(json.dumps(outcome.results)) == found
    for key in ("per_class_accuracy", "confusion", "average_accuracy", "model", "dataset"):
        assert found[key] == wanted[key]
    assert last_rows(found) == last_rows(wanted)
    assert found["accuracy_matrix"]["class_il"][:2] == [[None], [None, None]]
    assert found["forgetting"] == {"class_il": None, "task_il": None}
    assert outcome.folder.parent == tmp_path / "found"
    written = {path.name for path in outcome.folder.iterdir()}
    assert {
        "results.json",
        "accuracy.csv",
        "metrics.jsonl",
        "report.html",
        "config.json",
    } <= written
    assert json.loads((outcome.folder / "status.json").read_text())["status"] == "finished"


def test_a_checkpoint_of_each_task_s_end_and_within_one(ended: Path, tmp_path: Path) -> None:
    rows = map(json.loads, (ended / "metrics.jsonl").read_text().splitlines())
    reported = [row for row in rows if row["kind"] == "evaluation"]
    assert [row["boundary"] for row in reported] == [False, True] * 3
    home = ended / "checkpoints"
    for row in reported:
        name = f"task{row['task']}.{row['epoch']}_full.pth"
        outcome = measured(tmp_path, home / name)
        assert last_rows(outcome.results) == row["accuracy"], name
        assert outcome.results["tasks_done"] == row["task"] + 1


@pytest.mark.parametrize(
    "words",
    [("training=joint", "model=sgd", "buffer=none"),
     ("dataset=perm-mnist", "dataset.n_tasks=3", "dataset.stop_after=2"),
     ("dataset=rot-mnist", "dataset.n_tasks=2", "dataset.validation=0.05")],
    ids=["joint", "permuted", "rotated, validation"],
)  # fmt: skip
@pytest.mark.process
def test_other_scenarios(tmp_path: Path, words: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    wanted = perdure.train(*RUN, "dataset.iterations=15", *words, folder=run)
    found = measured(tmp_path, run).results
    assert last_rows(found) == last_rows(wanted)
    assert found["confusion"] == wanted["confusion"]
    assert found["split"] == wanted["split"]


def test_predictions_name_examples_of_the_source(
    ended: Path, tmp_path: Path, mnist: Arrays
) -> None:
    outcome = measured(tmp_path, ended, tasks="all", predictions=True)
    with np.load(outcome.folder / "predictions.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in file}
    assert str(found["split"]) == "test"
    order = found["class_order"]
    assert sorted(order) == list(range(10))
    assert (order[found["label"]] == mnist.test.y.numpy()[found["id"]]).all()
    assert sorted(found["id"]) == list(range(10_000))
    assert [mnist.classes[c] for c in order] == list(found["class_names"])
    assert found["scores"].dtype == np.float32
    for task, row in enumerate(outcome.results["evaluation"]["tasks"]):
        rows = found["task"] == task
        seen = 6 if task < 3 else 2 * task + 2
        label, scores = found["label"][rows], found["scores"][rows]
        assert (found["predicted"][rows] == scores[:, :seen].argmax(1)).all()
        assert (found["predicted"][rows] == label).mean() == row["class_il"]
        assert (found["predicted_task_il"][rows] == label).mean() == row["task_il"]
        assert row["seen"] is (task < 3)
    assert outcome.results["evaluation"]["tasks"][4]["class_il"] == 0


@pytest.mark.process
def test_ids_of_held_out_examples_are_of_the_training_split(tmp_path: Path, mnist: Arrays) -> None:
    run = tmp_path / "run"
    perdure.train(
        *RUN, "dataset.iterations=2", "dataset.stop_after=1", "dataset.validation=0.01", folder=run
    )
    outcome = measured(tmp_path, run, predictions=True)
    with np.load(outcome.folder / "predictions.npz") as file:
        assert str(file["split"]) == "train"
        assert (file["label"] == mnist.train.y.numpy()[file["id"]]).all()
        assert len(file["id"]) == 59 + 67


@pytest.mark.parametrize("name", ["mammoth_er_task2.pt", "mammoth_derpp_last.pt"])
def test_a_file_of_mammoth_gives_its_own_accuracies(tmp_path: Path, name: str) -> None:
    path = FOREIGN / name
    outcome = measured(tmp_path, path, "model=sgd", "dataset=seq-mnist")
    class_il, task_il = open_file(path).results[:2]
    for key, rows in (("class_il", class_il), ("task_il", task_il)):
        wanted = [float(value) / 100 for value in rows[-1]]
        found = last_rows(outcome.results)[key][: len(wanted)]
        assert found == pytest.approx(wanted, abs=1e-14)
    assert outcome.results["evaluation"]["kind"] == "mammoth"


def test_weights_alone_count_as_having_seen_as_many_tasks_as_asked_for(
    ended: Path, tmp_path: Path
) -> None:
    words = ("model=sgd", "dataset.class_order=" + str(order_of(ended)))
    outcome = measured(tmp_path, ended / "checkpoints" / "last.pth", *words, tasks=3)
    assert last_rows(outcome.results) == last_rows(results_of(ended))


def order_of(run: Path) -> list[int]:
    """The drawn order of the classes, which predictions.npz holds."""
    outcome = measured(run.parent, run, predictions=True)
    with np.load(outcome.folder / "predictions.npz") as file:
        order: list[int] = file["class_order"].tolist()
    return order


def test_another_benchmark_is_measured_whole(ended: Path, tmp_path: Path) -> None:
    outcome = measured(tmp_path, ended, "dataset=perm-mnist", "dataset.n_tasks=2")
    (rows,) = outcome.results["accuracy_matrix"].values()
    assert list(map(len, rows)) == [1, 2]
    assert any("scenario" in change for change in outcome.results["evaluation"]["other_benchmark"])


def test_a_damaged_newest_checkpoint_is_passed_over_and_left(ended: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ended, tmp_path / "run", symlinks=True))
    full = [p for p in (run / "checkpoints").iterdir() if p.name.startswith("task2.2_full.pth")]
    newest = [*full, *(run / "checkpoints").glob("*_2.pt")]
    for path in newest:
        if path.suffix != ".json":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.unlink()
            path.write_bytes(data)
    before = files_of(run)
    outcome = measured(tmp_path, run)
    assert files_of(run) == before
    assert outcome.results["evaluation"]["file"] == "task2.1_full.pth"


def refused(tmp_path: Path, pattern: str, reference: Any, *words: str, **options: Any) -> None:
    with pytest.raises(UserError, match=pattern):
        measured(tmp_path, reference, *words, **options)
    assert not list((tmp_path / "found").glob("*")), "nothing is left behind"


def test_what_cannot_be_measured_is_refused_and_leaves_nothing(ended: Path, tmp_path: Path) -> None:
    refused(tmp_path, "no such file", tmp_path / "none.pt")
    refused(tmp_path, "no full checkpoint", tmp_path)
    refused(tmp_path, "tasks=6: must be 1 to 5", ended, tasks=6)
    refused(tmp_path, "does not fit this configuration", ended, "backbone.hidden=[7]")
    four = ("dataset.source._target_=few_classes.Four", "dataset.n_tasks=2")
    file = FOREIGN / "mammoth_er_task2.pt"
    refused(tmp_path, "for 10 classes, this run has 4", file, "model=sgd", *four)
    pattern = "dataset=seq-mnist: its 4 classes .* do not fit the network"
    refused(tmp_path, pattern, ended, *four, "dataset.class_order=null")


def test_one_that_is_interrupted_leaves_nothing(
    ended: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        assert list((tmp_path / "found").iterdir()), "the folder is reserved by then"
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, ended)
    assert not list((tmp_path / "found").iterdir())


def test_a_class_that_a_stored_configuration_names_is_not_imported(
    ended: Path, tmp_path: Path
) -> None:
    state = read(next((ended / "checkpoints").glob("*_2.pt")))
    state["args"]["model"]["_target_"] = "os.system"
    torch.save({**state, "format": 2}, tmp_path / "hostile.pt")
    refused(tmp_path, r"os\.system", tmp_path / "hostile.pt")


@pytest.fixture(autouse=True)
def four_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own source with the digits 0 to 3."""
    (tmp_path / "few_classes.py").write_text(
        "from perdure.datasets.arrays import Arrays, Split\n"
        "from perdure.datasets.sources import MNIST\n\n\n"
        "class Four(MNIST):\n"
        "    def load(self, root):\n"
        "        whole = super().load(root)\n"
        "        parts = [Split(s.x[s.y < 4], s.y[s.y < 4]) for s in (whole.train, whole.test)]\n"
        "        return Arrays(*parts, whole.classes[:4])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.process
def test_a_run_that_was_evaluated_every_second_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files, report, checkpoints, forks know rows of nulls; what is missing can be measured."""
    words = (*RUN, "dataset.iterations=10", "dataset.stop_after=3")
    wanted = perdure.train(*words, folder=tmp_path / "whole")
    run = tmp_path / "run"
    found = perdure.train(*words, "training.evaluate_every_task=2", folder=run)
    assert found["accuracy_matrix"]["class_il"][0] == [None]
    assert (run / "accuracy.csv").read_text().splitlines()[1] == "0,0,,"
    assert (run / "report.html").is_file()
    assert not [r for r in caplog.records if r.exc_info], "report and picture are drawn"
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert not any(name.startswith("task0.") for name in names)
    assert {"task1.1_full.pth", "task2.1_full.pth", "best.pth", "last.pth"} <= names
    (first,) = (run / "checkpoints").glob("*_0.pt")
    outcome = measured(tmp_path, first)
    assert [last_rows(outcome.results)[n] for n in ("class_il", "task_il")] == [
        wanted["accuracy_matrix"][n][0] for n in ("class_il", "task_il")
    ]
    fork = perdure.train(f"checkpoint.load={first}", QUIET, folder=tmp_path / "fork")
    assert fork["accuracy_matrix"] == found["accuracy_matrix"]
    assert fork["confusion"] == found["confusion"]


GROWING = """
import torch
from torch import nn
from perdure.models.er import ER

class Blocks(ER):
    def __init__(self, backbone):
        super().__init__(backbone)
        self.heads = nn.ModuleList()

    def grow(self, task):
        self.heads.append(nn.Linear(self.backbone.n_features, len(task.classes)))

    def forward(self, x):
        features = self.backbone.features(x)
        seen = torch.cat([head(features) for head in self.heads], 1)
        return nn.functional.pad(seen, (0, self.backbone.n_classes - seen.shape[1]), value=-30.0)
"""


@pytest.mark.process
def test_a_method_that_grows_is_measured_with_the_structure_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "growing.py").write_text(GROWING)
    monkeypatch.syspath_prepend(tmp_path)
    own = "model._target_=growing.Blocks"
    perdure.train(
        *RUN, own, "dataset.iterations=20", "dataset.stop_after=3", folder=tmp_path / "run"
    )
    rows = results_of(tmp_path / "run")["accuracy_matrix"]["class_il"]
    for task in (1, 2):
        (path,) = (tmp_path / "run" / "checkpoints").glob(f"er_*_{task}.pt")
        found = measured(tmp_path, path, own).results
        assert found["accuracy_matrix"]["class_il"][-1] == rows[task]
    # The same file forks, though its network is larger than a new one.
    longer = (own, "dataset.stop_after=4", "checkpoint.fork=true")
    forked = perdure.train(f"checkpoint.load={path}", *longer, folder=tmp_path / "fork")
    assert forked["tasks_done"] == 4
