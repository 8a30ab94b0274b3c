"""Reading many runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs_of import make_run

from perdure.analysis.runs import read, read_run, varied
from perdure.errors import UserError


def test_runs_are_found_in_order_and_each_once(tmp_path: Path) -> None:
    for job in (10, 9, 2):
        make_run(tmp_path / "sweep" / str(job), "er", job)
    runs = read([tmp_path, tmp_path / "sweep" / "9", f"{tmp_path}/sweep/*"])
    assert [run.folder.name for run in runs] == ["2", "9", "10"]


def test_what_a_run_says(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "er", 3, "buffer=reservoir", accuracy=0.25)
    make_run(tmp_path / "b", "derpp", 3)
    one, other = read([tmp_path])
    assert one.is_finished
    assert one.metrics == {
        "average_accuracy.class_il": 0.25,
        "cost.bytes": 1000,
        "cost.flops": 7,
        "cost.cpu_seconds": 2.5,
    }
    assert (one.setting("model"), one.setting("buffer.size"), one.seed) == ("er", "200", "3")
    assert one.setting("buffer") == other.setting("buffer") == "reservoir"  # typed, and composed
    assert one.setting("training.reset_optimizer") == "true"
    assert "tracking.console" not in one.typed
    assert "training.log_every" not in one.config
    assert one.order == "3"
    assert varied([one, other]) == ["model"]
    assert varied([one, other], without=["model"]) == []


def test_an_add_on_is_part_of_the_name(tmp_path: Path) -> None:
    make_run(tmp_path, "derpp", 0, "addon=star")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "addon": {"name": "star"}}))
    assert read([tmp_path])[0].setting("model") == "derpp+star"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"status": NaN}'])
def test_a_damaged_run_is_no_error(tmp_path: Path, content: str) -> None:
    make_run(tmp_path / "a", "er", 0)
    (tmp_path / "a" / "results.json").write_text(content)
    run = read([tmp_path])[0]
    assert (run.status, run.metrics) == ("damaged", {})


def test_values_of_another_kind_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, "er", 0)
    odd = {"status": "finished", "average_accuracy": {"class_il": "x"}, "forgetting": 3, "cost": []}
    (tmp_path / "results.json").write_text(json.dumps(odd))
    assert read([tmp_path])[0].metrics == {}


def test_a_place_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run"):
        read([tmp_path])
    with pytest.raises(UserError, match="there is no run"):
        read([f"{tmp_path}/*/nothing"])


def test_how_a_run_ended_that_could_not_finish(tmp_path: Path) -> None:
    make_run(tmp_path, "er", 0, results={"status": "running"})
    assert read_run(tmp_path).status == "running"
    for content, status in (("{", "running"), ('{"status": "resumable"}', "resumable")):
        (tmp_path / "status.json").write_text(content)
        assert read_run(tmp_path).status == status
