"""`perdure metrics RUN…`: the catalog on real runs, old ones too, and on damaged folders."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perdure
from perdure.cli.metrics import DEFAULT, main
from perdure.config.validation import validate
from perdure.metrics.catalog import CATALOG, table

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
FIXTURES = Path(__file__).parents[1] / "fixtures"
SHORT = (
    "dataset.iterations=30", "dataset.stop_after=2", "tracking.console=off",
    "evaluation.probe_every=10", "evaluation.probe_size=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "er"
    perdure.train("model=er", *SHORT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def joint_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "from-scratch"
    perdure.train("model=from-scratch", *SHORT, folder=folder)
    return folder


def values(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[tuple[str, str], Any]:
    assert main([*map(str, arguments), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all((v["value"] is None) == bool(v["reason"]) for v in found)
    return {(v["metric"], v["accuracy"]): v["reason"] or v["value"] for v in found}


@pytest.mark.process
def test_all_metrics_of_a_run(
    run: Path, joint_reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = values(capsys, run, "--add", "all", "--baseline", joint_reference)
    results = json.loads((run / "results.json").read_text())
    assert {name for name, _ in found} == set(CATALOG)
    shared = (
        "average_accuracy", "forgetting", "backward_transfer", "average_anytime_accuracy",
        "min_accuracy", "worst_case_accuracy",
    )  # fmt: skip
    for name in shared:
        for accuracy in ("class_il", "task_il"):
            assert found[name, accuracy] == results[name][accuracy], name
    other = json.loads((joint_reference / "results.json").read_text())["accuracy_matrix"]
    for accuracy, rows in results["accuracy_matrix"].items():
        gaps = [other[accuracy][k][k] - rows[k][k] for k in range(2)]
        assert found["intransigence", accuracy] == pytest.approx(sum(gaps) / 2)
    undefined = {key for key, value in found.items() if isinstance(value, str)}
    of_first = {"recency_bias", "expected_calibration_error", "brier_score"}
    assert undefined == {
        ("forward_transfer", "class_il"), ("forward_transfer", "task_il"),
        *((name, "task_il") for name in of_first),
    }  # fmt: skip
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.process
def test_calibration_is_that_of_perdure_evaluate(tmp_path: Path, capsys: Any) -> None:
    from perdure.cli import evaluate

    folder = tmp_path / "run"
    perdure.train("model=er", *SHORT, "checkpoint.save=true", folder=folder)
    assert evaluate.main([f"checkpoint={folder}", f"output_root={tmp_path / 'out'}"]) == 0
    capsys.readouterr()
    (other,) = (tmp_path / "out").iterdir()
    known = json.loads((other / "results.json").read_text())["evaluation"]["calibration"]
    found = values(capsys, folder, "--add", "expected_calibration_error")
    wanted = known["expected_calibration_error"]
    # Confidences are kept in 16 bits: one at the edge of a bin may fall into the next.
    assert found["expected_calibration_error", "class_il"] == pytest.approx(wanted, abs=5e-3)


def test_the_defaults_and_what_is_added(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {name for name, _ in values(capsys, run)} == set(DEFAULT)
    found = values(capsys, run, "--add", "stability_gap")
    assert {name for name, _ in found} == {*DEFAULT, "stability_gap"}


@pytest.mark.parametrize(
    "old", sorted(p.parent for p in FIXTURES.rglob("results.json")), ids=lambda p: p.name
)
def test_runs_of_earlier_versions(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = values(capsys, old, "--add", "all")
    for name in ("learning_curve_area", "min_accuracy_of_probes", "prequential_accuracy"):
        assert isinstance(found[name, "class_il"], str)
    results = json.loads((old / "results.json").read_text())
    for name in ("average_accuracy", "forgetting"):
        value, wanted = found[name, "class_il"], results[name]["class_il"]
        assert isinstance(value, str) if wanted is None else value == wanted


def test_formats(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    average = values(capsys, run)["average_accuracy", "class_il"]
    assert main([str(run), "--add", "forward_transfer"]) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"^\| average_accuracy +\| +{average:.4f} \|", shown, re.M)
    assert re.search(r"^\| forward_transfer +\| +null \| +null \|", shown, re.M)
    assert "null: forward_transfer (class_il): the classes of a task cannot be chosen" in shown
    assert main([str(run), str(run), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * 2 * len(DEFAULT)
    assert float(rows[0]["value"]) == average
    assert main(["--list"]) == 0
    assert capsys.readouterr().out == table()


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("perdure: ")
    assert err.count("\n") == 1
    return err


def test_mistakes(
    run: Path, joint_reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "must be all, average_accuracy" in refused(capsys, run, "--add", "accuracy")
    assert "no folder of a run" in refused(capsys, tmp_path)
    assert "name at least one" in refused(capsys)
    other = tmp_path / "other"
    shutil.copytree(joint_reference, other)
    results = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps({**results, "n_tasks": 9}))
    said = refused(capsys, run, "--baseline", other)
    assert "its n_tasks is not that of" in said
    (other / "results.json").write_text("{")
    assert "damaged" in refused(capsys, other)
    shutil.rmtree(other)
    shutil.copytree(run, other)
    (other / "records" / "task-1.npz").write_bytes(b"PK")
    assert "task-1.npz: damaged" in refused(capsys, other)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(-1, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["accuracy_matrix", "confusion", "task_classes", "n_tasks", "training", "n_epochs", "dataset"]
)


@settings(max_examples=80, deadline=None)
@given(key=KEYS, value=VALUES, line=VALUES)
def test_foreign_files_end_in_a_sentence(key: str, value: Any, line: Any, run: Path) -> None:
    """Whatever stands in results.json and the rows: a status, never a traceback."""
    other = run.with_name("foreign")
    shutil.rmtree(other, ignore_errors=True)
    (other / "records").mkdir(parents=True)
    results = json.loads((run / "results.json").read_text())
    (other / "results.json").write_text(json.dumps({**results, key: value}))
    row = json.dumps({"kind": "probe", "task": line, "tasks": line, "correct": {"class_il": line}})
    (other / "records" / "evaluations.jsonl").write_text(f"{row}\n")
    last = json.dumps({"kind": "evaluation", "boundary": True, "accuracy": {"class_il": line}})
    (other / "metrics.jsonl").write_text(f"{last}\n")
    assert main([str(other), "--add", "all"]) in (0, 2)


@pytest.mark.process
def test_torch_is_not_imported(run: Path) -> None:
    code = (
        "import sys; from perdure.cli.metrics import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), "--add", "all"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("[]\n")


# --- docs/metrics.md ------------------------------------------------------------------------------


def test_the_commands_of_the_page() -> None:
    page = DOCS.read_text()
    trained = re.findall(r"^    python train\.py (.+)$", page, re.M)
    assert len(trained) >= 2
    for command in trained:
        validate(perdure.compose(*(w for w in shlex.split(command) if not w.startswith("-"))))
    for command in re.findall(r"^    perdure metrics (.+)$", page, re.M):
        added = re.findall(r"--add ((?:\w+ ?)+)", command)
        assert {name for names in added for name in names.split()} <= {*CATALOG, "all"}


def test_the_keys_of_the_page_are_those_of_the_configuration() -> None:
    rows = re.findall(r"^\| `evaluation\.(\w+)=(\w+)` \|", DOCS.read_text(), re.M)
    config = perdure.compose().evaluation
    shown = {True: "true", None: "null"}
    assert dict(rows) == {key: shown.get(value, str(value)) for key, value in config.items()}


def test_the_arrays_of_the_page_are_those_of_the_files(run: Path) -> None:
    from perdure.tracking.raw_files import read_examples

    found = read_examples(run, 1)
    assert found is not None
    named = re.findall(r"^\| `(\w+)` \| \w+ (?:\[N\]|\[\]) \|", DOCS.read_text(), re.M)
    assert {"predicted_NAME" if n.startswith("predicted_") else n for n in found} | {
        "every"
    } == set(named)
