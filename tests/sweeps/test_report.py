"""Exit status and summary of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from perdure.errors import ExitRun
from perdure.sweeps.jobs import Job, Outcome
from perdure.sweeps.report import SweepReport, with_summary


def filled(outcomes: Sequence[Outcome | None], **sweeper: int) -> SweepReport:
    hydra: Any = OmegaConf.create({"sweep": {"dir": "outputs/x"}, "sweeper": sweeper})
    report = SweepReport()
    jobs = [Job(i, (), f"seed={i}", Path("nowhere"), (), Path()) for i in range(len(outcomes))]
    report.announce(jobs, hydra, "")
    for job, outcome in zip(jobs, outcomes, strict=True):
        if outcome is not None:
            report.ended(job, outcome)
    return report


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        pytest.param([0, 0], 0, id="good"),
        pytest.param([0, 2, 2], 2, id="mistakes"),
        pytest.param([2, 1], 1, id="failures"),
        pytest.param([0, -9], 1, id="killed"),
        pytest.param([1, 75, 0], 75, id="interrupted"),
    ],
)
def test_the_status_of_the_whole(statuses: list[int], status: int) -> None:
    assert filled([Outcome(s) for s in statuses]).status == status


def test_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    report = filled([
        Outcome(0, "", 0.8665, 61.2), Outcome(0, "", 0.8, finished_before=True),
        Outcome(-9, "killed"),
        Outcome(75, "stopped by SIGTERM; python train.py … goes on from there"), None,
    ])  # fmt: skip
    report.print_summary()
    assert capsys.readouterr().out.splitlines() == [
        "sweep in outputs/x: 5 jobs",
        "job 0 finished after 61 s, average accuracy 86.65 %: seed=0",
        "1 of 5 jobs done, about 4 min left",
        "job 1 was finished before, average accuracy 80.00 %: seed=1",
        "job 2 failed: seed=2: killed",
        "2 of 5 jobs done, 1 failed, about 2 min left",
        "job 3 interrupted: seed=3: stopped by SIGTERM",
        "2 of 5 jobs done, 1 failed, 1 interrupted, about 1 min left",
        "sweep in outputs/x: 2 finished, 1 failed, 1 interrupted, 1 not started",
        "  failed: job 2, seed=2: killed",
    ]
    assert report.n_unfinished == 3


def test_a_search_names_its_best_trial(capsys: pytest.CaptureFixture[str]) -> None:
    filled([Outcome(0, "", 0.5), Outcome(0, "", 0.75)], n_trials=3).print_summary()
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "sweep in outputs/x: 3 jobs"
    assert last == "  best: job 1, seed=1: 75.00 %"


def test_an_error_of_the_sweeper_is_not_hidden_by_a_finished_job() -> None:
    def fail() -> None:
        raise ValueError("no trial")

    with pytest.raises(ValueError, match="no trial"):
        with_summary(fail, filled([Outcome(0, "", 0.5)]))
    with pytest.raises(ExitRun) as caught:
        with_summary(fail, filled([Outcome(1, "diverged")]))
    assert caught.value.code == 1
    assert caught.value.sentence.startswith("1 of 1 job did not finish; python ")
