"""What a run folder answers about its run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from perdure.errors import UserError
from perdure.run.folder import RunFolder


def test_results_of_hundreds_of_tasks_are_read(tmp_path: Path) -> None:
    results = {
        "status": "finished",
        "average_accuracy": {"class_il": 0.5},
        "accuracy_matrix": [[0.123456789] * 400] * 400,
    }
    folder = RunFolder(tmp_path)
    folder.results.write_text(json.dumps(results))
    assert folder.results.stat().st_size > 1 << 20
    assert folder.finished_results() == results


def test_a_run_that_has_not_finished_has_no_results_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert (folder.run_status, folder.finished_results()) == (None, None)
    folder.results.write_text('{"status": "running"}')
    assert (folder.run_status, folder.finished_results()) == ("running", None)


DAMAGED = (
    "", "{", "[1]", "null", "[" * 100_000, '{"status": "finished"}',
    '{"status": "finished", "average_accuracy": 3}',
    '{"status": "finished", "average_accuracy": {}}',
)  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_results_are_one_sentence(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.results.write_text(text)
    folder.write_status("finished", 0)
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        folder.finished_results()
    assert folder.complete_results() is None
    assert folder.run_status in (None, "finished")
    with pytest.raises(UserError, match="no checkpoint is left to rebuild it from"):
        folder.results_for(OmegaConf.create())


FINISHED = {
    "status": "finished", "training": "sequential", "tasks_done": 2, "n_tasks": 5,
    "average_accuracy": {"class_il": 0.5},
}  # fmt: skip


def finished(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.results.write_text(json.dumps(FINISHED))
    folder.write_status("finished", 0)
    return folder


def asking_for(stop_after: int | None) -> DictConfig:
    return OmegaConf.create({"dataset": {"stop_after": stop_after}})


def test_a_finished_run_is_taken_as_it_is(tmp_path: Path) -> None:
    assert finished(tmp_path).results_for(asking_for(2)) == FINISHED


@pytest.mark.parametrize(
    ("stop_after", "what"), [(1, "as it was"), (3, "no state"), (None, "no s")]
)
def test_another_number_of_tasks_is_not_the_finished_run(
    tmp_path: Path, stop_after: int | None, what: str
) -> None:
    with pytest.raises(UserError, match=f"finished after 2 of 5 tasks.*{what}"):
        finished(tmp_path).results_for(asking_for(stop_after))


@pytest.mark.parametrize("text", ["", "[]", '{"status": 3}', "{", '{"status": "resumable"}', None])
def test_a_run_is_complete_only_where_its_last_process_said_so(
    tmp_path: Path, text: str | None
) -> None:
    folder = finished(tmp_path)
    folder.status.unlink() if text is None else folder.status.write_text(text)
    assert not folder.is_complete
    assert folder.complete_results() is None


def test_the_last_rolling_file_cut_short_in_its_removal_goes(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.status.unlink()
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-20_full.pth").write_text("its sidecar is gone")
    assert folder.results_for(asking_for(2)) == FINISHED
    assert not folder.checkpoints.exists()


def test_results_that_changed_since_the_end_are_damaged(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.results.write_text(json.dumps({**FINISHED, "average_accuracy": {"class_il": 0.9}}))
    assert folder.complete_results() is None
    with pytest.raises(UserError, match=r"results\.json: damaged \(changed since"):
        folder.results_for(asking_for(2))


def test_a_history_that_changed_since_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"kind": "end"}\n')
    finished(tmp_path)
    assert folder.complete_results() == folder.results_for(asking_for(2)) == FINISHED
    assert caplog.text == ""
    folder.metrics.write_text('{"kind": "enc"}\n')
    assert folder.complete_results() is None
    assert folder.results_for(asking_for(2)) == FINISHED  # which are as they were
    assert "metrics.jsonl: damaged (changed since the run finished)" in caplog.text


def test_a_finished_run_without_its_results_has_work_to_do(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.results.unlink()
    assert folder.complete_results() is None
    assert folder.results_for(asking_for(2)) is None
