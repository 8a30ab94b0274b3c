"""A run in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.tracking.report_story import history_section, protocol, sentences

RESULTS: dict[str, Any] = {
    "model": "er",
    "status": "finished",
    "tasks_done": 2,
    "n_tasks": 2,
    "class_names": ["a", "b", "c", "d"],
    "average_accuracy": {"class_il": 0.55, "task_il": 0.9},
    "forgetting": {"class_il": 0.6, "task_il": 0.0},
    "accuracy_matrix": {"class_il": [[0.9], [0.3, 0.8]], "task_il": [[0.9], [0.9, 0.9]]},
}


def test_the_result_in_sentences() -> None:
    assert " ".join(sentences(RESULTS)) == (
        "After 2 tasks, er gets right, of the test examples of a task on average, 55.00 % when it "
        "chooses among all classes (class-IL) and 90.00 % when it is told their task (task-IL). "
        "Guessing among the 4 classes would give 25.0 %. On earlier tasks it has lost 60.00 points "
        "of accuracy (class-IL), most on task 0: 90.0 % fell to 30.0 %."
    )


@pytest.mark.parametrize(
    ("changes", "words", "absent"),
    [
        ({"status": "interrupted", "tasks_done": 1, "n_tasks": 3},
         "The run is interrupted after 1 of 3 tasks; the numbers are of these. After 1 task,",
         "Guessing"),
        ({"split": "validation"}, "of the validation examples", "of the test examples"),
        ({"training": "joint", "accuracy_matrix": {"class_il": [[0.9, 0.3]]}},
         "Trained on all tasks at once, er", "lost"),
    ],
    ids=["interrupted", "validation", "joint"],
)  # fmt: skip
def test_what_else_must_be_said(changes: dict[str, Any], words: str, absent: str) -> None:
    text = " ".join(sentences({**RESULTS, **changes}))
    assert words in text
    assert absent not in text


def test_nothing_measured_is_nothing_said() -> None:
    assert list(sentences({"status": "failed"})) == []


def test_resumes_and_branches_are_listed() -> None:
    resumes = [
        {"from": "x/last_full.pth", "at": "2026-11-22T08:11:46", "fork": False},
        {"from": "<b>", "at": "2026-11-23T08:11:46", "fork": True},
    ]
    html = history_section({"resumes": resumes, "other_benchmark": ["dataset=y (was x)"]})
    assert "<li>resumed from x/last_full.pth on 2026-11-22T08:11:46</li>" in html
    assert "<li>branched from (a fork of) &lt;b&gt; on" in html
    assert "another benchmark than its start: dataset=y (was x)" in html
    assert "One process trained it" in history_section({})


def test_the_protocol_by_its_names() -> None:
    config = {
        "dataset": {"name": "seq-mnist", "epochs": 1, "iterations": None},
        "optimizer": {"_target_": "perdure.training.optim.SGD", "lr": 0.1},
        "tracking": {"console": "off"},
    }
    assert dict(protocol(config)) == {
        "benchmark": "seq-mnist", "epochs a task": "1", "optimizer": "SGD", "learning rate": "0.1",
    }  # fmt: skip
