"""The audit passes what is honest, and each check fails on what is dishonest in its way."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from perdure.audit.audit import CHECKS, WORLD_SIZE, audit_of
from perdure.audit.outcome import FAILED, PASSED, SKIPPED, Outcome, has_failed, outcome_of
from perdure.audit.trial import Trial
from perdure.cli.audit import main
from perdure.config.build import locate
from perdure.config.folder import CONF
from perdure.errors import UserError

SMALL = ("dataset=seq-mnist", "backbone.hidden=[16]", "device=cpu")
PLATEAU = (
    "scheduler=plateau",
    "scheduler.patience=0",
    "dataset.epochs=2",
    "training.evaluate_every=1",
)
ONE_A_FAMILY = ("derpp", "icarl", "slda", "packnet", "ewc-online")
SHORTER = {
    "bic": ("model.bias_epochs=4", "model.held_out=0.3"),
    "gdumb": ("model.epochs=3",),
    "podnet": ("model.finetune_epochs=2",),
}
"""Options without which an audit takes long."""
NAMES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
WITH_BASE = [
    name
    for name in NAMES
    if locate(OmegaConf.load(CONF / f"model/{name}.yaml")["_target_"], "model").base  # type: ignore[attr-defined]
]


def own(name: str, base: str = "er") -> tuple[str, ...]:
    return (f"model={base}", f"model._target_=dishonest.{name}", *SMALL)


def outcomes(*words: str, only: str = "") -> list[Outcome]:
    """Of one check, or of all but that of several processes."""
    return list(audit_of(words).outcomes([only] if only else list(CHECKS)))


@pytest.mark.parametrize(
    ("words", "check", "finding"),
    [
        (own("Votes"), "test batches", r"\d+ of 240 predictions are others when "),
        (own("Centers"), "test batches", r"\d+ of 240 predictions are others when .* batches of 7"),
        (own("CountsCalls"), "task identity", r"\d+ of 240 predictions .* the tasks are mixed"),
        (own("Peeks"), "future classes", "is another after task 1 when the last two .* swapped"),
        (
            (*own("LooksAhead"), "dataset=mnist-360"),
            "future classes",
            "is another after step 4 when the second half of the stream is another",
        ),
        (own("CountsTasks"), "number of tasks", "is another after task 1 when the last two .* one"),
        (
            own("ReadsClasses"),
            "number of classes",
            r"dishonest\.loss reads backbone\.n_classes, .* declare needs_n_classes = True",
        ),
        (own("LearnsWhenMeasured"), "test set", "is another at the end when the test examples"),
        (
            (*own("Honest"), *PLATEAU),
            "test set",
            "optimizer.* is another at the end when the test examples are others",
        ),
        (own("Hoards"), "memory", "kept holds 10 training examples after task 0, outside"),
        (own("HoardsInTheClass"), "memory", r"kept\.0 holds 1 training examples after task 0"),
        (own("HoardsInABuffer"), "memory", "examples holds 6 training examples after task 0"),
        (
            ("model=er", *SMALL, "buffer._target_=dishonest.TooLarge"),
            "memory",
            r"the buffer holds \d+ examples in task 1, and its capacity is 106",
        ),
        (own("Inverts"), "memory", "holds an example of label . in task 0 that is none of the"),
        (own("Thaws"), "frozen parts", "first is said to be frozen, and changed in task 1"),
        (own("Drops"), "frozen parts", "first was frozen before task 1, and is not any more"),
        (own("Impure"), "pure loss", "loss changed n; return what belongs to each example"),
        (
            (*own("AlwaysDecays"), "+model.strength=0.1"),
            "base method",
            r"with model\.strength=0, .* is not that of sgd",
        ),
        (
            (*own("Powerless"), "+model.strength=0.1"),
            "base method",
            "with its own strength the weights are those of sgd too",
        ),
        (own("MovesWhenMeasured"), "measuring", "evaluated after every epoch: .* differs"),
        (own("Forgets"), "resume", "resumed at task .* differs from the whole run's"),
        (own("MeanOfAPart"), "batch parts", "differs by .* when batches come in two parts"),
        (own("Broken"), "test batches", "RuntimeError: shape"),
    ],
    ids=lambda value: value[1].rpartition(".")[2] if isinstance(value, tuple) else "",
)
def test_each_check_fails_on_a_dishonest_method(
    words: tuple[str, ...], check: str, finding: str
) -> None:
    (outcome,) = outcomes(*words, only=check)
    assert outcome.status == FAILED, outcome
    assert re.search(finding, outcome.detail), outcome.detail


@pytest.mark.process
def test_a_process_that_learns_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    (outcome,) = outcomes(*own("KnowsItsRank"), "training.shards=2", only=WORLD_SIZE)
    assert outcome.status == FAILED
    assert outcome.detail.endswith("is another on two processes than on one")


@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_a_method_of_each_family_passes(name: str) -> None:
    """All checks but that of several processes, which tests/end_to_end does for every method."""
    found = {outcome.check: outcome for outcome in outcomes(f"model={name}", *SMALL)}
    assert list(found) == list(CHECKS)
    assert not has_failed(list(found.values())), found
    passed = {check for check, outcome in found.items() if outcome.status == PASSED}
    assert {"test batches", "future classes", "test set", "memory", "pure loss", "resume"} <= passed
    assert ("frozen parts" in passed) == (name in ("slda", "packnet"))
    assert ("base method" in passed) == (name in ("derpp", "ewc-online"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_A_FAMILY])
def test_every_other_method_passes(name: str) -> None:
    found = outcomes(f"model={name}", *SMALL, *SHORTER.get(name, ()))
    assert not has_failed(found), found


@pytest.mark.parametrize("name", WITH_BASE)
def test_zero_strength_is_the_base_method(name: str) -> None:
    (outcome,) = outcomes(f"model={name}", *SMALL, only="base method")
    assert outcome.status == PASSED, outcome


def test_benchmarks_of_other_kinds() -> None:
    checks = ["future classes", "number of tasks", "memory", "test batches"]
    words = ("model=er", *SMALL, "dataset=perm-mnist")
    domain = {o.check: o for o in audit_of(words).outcomes(checks)}
    assert not has_failed(list(domain.values())), domain
    assert domain["future classes"].status == PASSED
    words = ("model=der", *SMALL, "dataset=mnist-360")
    stream = {o.check: o for o in audit_of(words).outcomes(checks)}
    assert not has_failed(list(stream.values())), stream
    assert stream["future classes"].status == PASSED
    assert stream["future classes"].detail.startswith("the same state after step 4 when the second")
    assert stream["number of tasks"].detail == "the benchmark has 1 tasks; 3 are needed"


def test_what_is_declared_is_no_finding() -> None:
    gem = {o.check: o for o in outcomes("model=gem", *SMALL, "buffer=ring-task")}
    assert gem["number of tasks"].status == SKIPPED
    assert gem["number of tasks"].detail.endswith("takes n_tasks")
    icarl = outcomes("model=icarl", *SMALL, only="number of classes")
    assert icarl[0].detail == "the method declares needs_n_classes"


def test_validation_examples_may_be_followed() -> None:
    words = (*own("Honest"), "dataset.validation=0.1")
    (outcome,) = outcomes(*words, only="test set")
    reason = "accuracy is measured on held-out training examples"
    assert outcome == Outcome("test set", SKIPPED, reason)


def test_a_refused_configuration_is_no_finding() -> None:
    def refused() -> str:
        raise UserError("optimizer.lr=-1: must be positive")

    with pytest.raises(UserError, match="must be positive"):
        outcome_of("resume", refused)
    with pytest.raises(UserError, match="training=joint: an audit is of"):
        audit_of(("model=sgd", *SMALL, "training=joint"))
    with pytest.raises(UserError, match="an audit starts from a fresh network"):
        audit_of(("model=sgd", *SMALL, "checkpoint.load=x.pt"))


def test_the_trial_is_small_and_its_buffer_overflows() -> None:
    trial: Trial = audit_of(("model=er", "dataset=seq-mnist", "dataset.epochs=50")).trial
    dataset = trial.config.dataset
    assert (dataset.epochs, dataset.batch_size) == (2, 10)
    assert (trial.capacity, len(trial.groups)) == (106, 4)
    assert trial.benchmark.n_train(0) == 80
    assert sorted(trial.benchmark.train(1).y.unique().tolist()) == [2, 3]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "audit.json"
    words = [*own("Impure"), "--json", str(file), "--only", "pure loss", "test set"]
    assert main(words) == 1
    out = capsys.readouterr().out.splitlines()
    title = "audit of er on seq-mnist: 4 of 5 tasks, 80 training examples each"
    assert out[0] == title
    assert re.match(r"  pure loss +FAILED +loss changed n;", out[1])
    assert re.match(r"  test set +passed +the same weights", out[2])
    assert out[3] == "failed: pure loss"
    rows = json.loads(file.read_text())["checks"]
    assert [(row["check"], row["status"]) for row in rows] == [
        ("pure loss", FAILED),
        ("test set", PASSED),
    ]
    assert main([*SMALL, "model=sgd", "--only", "pure loss"]) == 0
    for wrong, sentence in {
        "--only=colors": "--only 'colors': there is no such check; must be test batches,",
        "seed=1,2": "seed=1,2: an audit is of one configuration",
        "model=sdg": "model=sdg: ",
    }.items():
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main([*SMALL, "model=er", wrong])
        assert sentence in capsys.readouterr().err
