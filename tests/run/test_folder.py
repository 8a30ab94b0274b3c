"""What a run folder answers about its run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.errors import UserError
from perdure.run.folder import RunFolder


def test_results_of_hundreds_of_tasks_are_read(tmp_path: Path) -> None:
    results = {"status": "finished", "accuracy_matrix": [[0.123456789] * 400] * 400}
    folder = RunFolder(tmp_path)
    folder.results.write_text(json.dumps(results))
    assert folder.results.stat().st_size > 1 << 20
    assert folder.finished_results() == results


def test_a_run_that_has_not_finished_has_no_results_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert (folder.run_status, folder.finished_results()) == (None, None)
    folder.results.write_text('{"status": "running"}')
    assert (folder.run_status, folder.finished_results()) == ("running", None)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_damaged_results_are_one_sentence(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.results.write_text(text)
    with pytest.raises(UserError, match=r"results\.json: damaged"):
        folder.finished_results()
