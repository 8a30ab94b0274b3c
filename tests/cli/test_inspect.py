"""What the script says of our files and of others', whole, damaged and hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from others import MammothMLP, mammoth_checkpoint

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.aliases import with_aliases
from perdure.checkpoint.core.encode import plain
from perdure.cli import inspect
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.io import atomic
from perdure.models.er import ER
from perdure.training.recording import Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

Run = dict[str, Any]


@pytest.fixture(scope="module")
def state(tiny: Arrays) -> Run:
    """ER on real digits, two of five tasks."""
    torch.manual_seed(0)
    benchmark = ClassIncremental(tiny, 5)
    facts = {"model": "er", "dataset": "seq-mnist", "buffer_size": 50, "seed": 7, "n_tasks": 5}
    facts["timestamp"] = "20261122-101112"
    trainer = Trainer(
        ER(MLP(benchmark.shape, 10, (20,))),
        benchmark,
        Settings(batch_size=10, seed=7, stop_after=2),
        buffer=Buffer(Reservoir(50, 10)),
        recording=Recording(facts=facts, config={"optimizer": {"lr": 0.1}, "best": float("nan")}),
    )
    trainer.fit()
    return {**trainer.state_dict(), "versions": {"torch": "2.13"}, "overrides": ["seed=7"]}


@pytest.fixture
def path(state: Run, tmp_path: Path) -> Path:
    """Its full file."""
    found = tmp_path / "checkpoints" / "er_1.pt"
    found.parent.mkdir()
    files.write(found, state, {"position": state["position"], "kind": "task"})
    return found


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def run_script(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = inspect.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_full_file(path: Path, state: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run_script(capsys, path)
    assert (status, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line and line[0] != " ")
    assert lines["file"].startswith("er_1.pt: the full state of a run, ")
    digest = json.loads(sidecars.path_of(path).read_text())["sha256"]
    assert lines["intact"] == f"yes, SHA-256 {digest} as in its sidecar"
    assert lines["run"] == "er on seq-mnist, buffer 50, seed 7, started 20261122-101112"
    assert lines["overrides"] == "seed=7"
    assert lines["stands"] == "next is task 2, epoch 0, step 0; 24 steps done"
    assert lines["network"] == "15,910 numbers in 4 tensors"
    assert lines["buffer"] == "raw 50x1x28x28, y 50; 240 examples seen"
    assert "model 63.7 kB" in lines["parts"]
    assert lines["versions"] == "torch 2.13"
    matrix = state["results"]["summary"]["accuracy_matrix"]["class_il"]
    shown = out[out.index("  class-IL %") :].splitlines()
    assert shown[0].split() == ["class-IL", "%", "task", "0", "task", "1"]
    assert shown[1].split()[3:] == [f"{100 * matrix[0][0]:.2f}"]
    assert shown[2].split()[3:] == [f"{100 * value:.2f}" for value in matrix[1]]


def test_the_same_for_programs(path: Path, state: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run_script(capsys, path, "--json")
    known = json.loads(out)
    assert status == known["status"] == 0
    assert known["intact"] is True
    assert known["position"] == state["position"]
    assert known["accuracy_matrix"] == state["results"]["summary"]["accuracy_matrix"]
    assert known["network"]["head.weight"] == [10, 20]
    assert known["args"] == {"optimizer": {"lr": 0.1}, "best": None}


def test_a_finished_run(state: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = {**state, "position": {"task": 5, "epoch": 0, "step": 0, "global_step": 1234}}
    files.write(tmp_path / "a.pt", done, {})
    assert (
        "stands     all 5 tasks trained, 1,234 steps done"
        in run_script(capsys, tmp_path / "a.pt")[1]
    )


def test_a_joint_run_is_headed_so(
    state: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = state["results"]
    summary = {**results["summary"], "training": "joint"}
    summary["accuracy_matrix"] = {"class_il": [[0.5, 0.25, 0.75]]}
    at = {"task": 1, "epoch": 0, "step": 0, "global_step": 24}
    joint = {**state, "position": at, "results": {**results, "summary": summary}}
    files.write(tmp_path / "a.pt", joint, {"position": at, "stage": "joint"})
    _, out, _ = run_script(capsys, tmp_path / "a.pt")
    assert "stands     all tasks trained jointly, 24 steps done" in out
    header, row = (line.split() for line in out.splitlines()[-2:])
    assert header == ["class-IL", "%", "task", "0", "task", "1", "task", "2"]
    assert row == ["joint", "50.00", "25.00", "75.00"]
    weights = {"model_state_dict": MLP((1, 28, 28), 10).state_dict()}
    within = {**at, "task": 0, "epoch": 2, "step": 3}
    files.write(tmp_path / "b.pth", weights, {"position": within, "stage": "joint"})
    _, out, _ = run_script(capsys, tmp_path / "b.pth")
    assert "joint training, epoch 2, step 3; 24 steps done" in out


def test_second_names_are_no_parts(
    path: Path, state: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of Catalyst, which name the same tensors."""
    sizes = json.loads(run_script(capsys, path, "--json")[1])["parts"]
    named = path.with_name("er_2.pt")
    files.commit(named, with_aliases(plain({**state, "format": files.FORMAT})), {})
    assert "model_state_dict" in torch.load(named, weights_only=True)
    assert json.loads(run_script(capsys, named, "--json")[1])["parts"] == sizes
    assert sum(sizes.values()) < 1.1 * path.stat().st_size


@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["text", "json"])
def test_damage_is_status_1(
    path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flip(path)
    status, out, err = run_script(capsys, path, *arguments)
    assert status == 1
    assert err.startswith(f"perdure: {path}: damaged (its SHA-256")
    assert (json.loads(out)["intact"] is False) if arguments else out == ""


def test_a_file_whose_sidecar_alone_is_left_is_lost(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.unlink()
    assert run_script(capsys, path)[0] == 1
    assert run_script(capsys, path.parent)[0] == 1


def test_what_cannot_be_read_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Hostile()}, tmp_path / "a.pt")
    status, out, err = run_script(capsys, tmp_path / "a.pt")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "nothing in it was run: it asks for posix.mkdir" in err
    assert not (tmp_path / "ran").exists()
    status, _, err = run_script(capsys, tmp_path / "none.pt")
    assert (status, err) == (2, f"perdure: {tmp_path / 'none.pt'}: there is no such file\n")


def test_a_mammoth_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"examples": torch.rand(5, 1, 28, 28), "labels": torch.arange(5)}
    torch.save(mammoth_checkpoint(MammothMLP(), rows), tmp_path / "a.pt")
    status, out, _ = run_script(capsys, tmp_path / "a.pt")
    assert status == 0
    assert "a.pt: a Mammoth checkpoint, " in out
    assert "intact     yes by the file's own checksums (CRC-32); it has no sidecar" in out
    assert "run        model=er, dataset=seq-mnist, buffer_size=500, lr=0.1, seed=None" in out
    assert "buffer     examples 5x1x28x28, labels 5" in out
    assert [line.split()[-2:] for line in out.splitlines() if "after task 1" in line] == [
        ["95.50", "97.25"],
        ["98.00", "99.00"],
    ]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"position": 3, "versions": [], "results": {"summary": 4}}, id="other-types"),
        pytest.param({"position": {"task": "x"}, "args": None, "overrides": 5}, id="halves"),
        pytest.param(
            {
                "position": {"task": [], "epoch": {}, "step": None, "global_step": "many"},
                "results": {"summary": {"accuracy_matrix": {"class_il": [[{}]], "x": 7, "y": []}}},
                "buffer": {"fields": 3, "seen": "all"},
            },
            id="odd-values",
        ),
        pytest.param({"args": {3: {"a": (1, {2})}}, "versions": {1: [2]}, 7: 8}, id="odd-keys"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["--json"]], ids=["text", "json"])
def test_a_full_file_with_odd_parts_is_no_traceback(
    content: Run, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"w": torch.ones(1)}
    torch.save({"model": model, "format": 1, "position": {}, **content}, tmp_path / "a.pt")
    status, out, _ = run_script(capsys, tmp_path / "a.pt", *arguments)
    assert status == 0
    assert "perdure" in out or "full state of a run" in out


def test_a_files_words_never_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"model": {"w": torch.ones(1)}, "format": 1, "position": {}}
    torch.save({**content, "versions": {"torch": "\x1b[2J\n"}}, tmp_path / "a.pt")
    assert "torch  [2J " in run_script(capsys, tmp_path / "a.pt")[1]
    torch.save({"\x1b[2J": 3}, tmp_path / "b.pt")
    assert "holds  [2J, where" in run_script(capsys, tmp_path / "b.pt")[2]


def test_a_folder(path: Path, state: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = path.parent
    weights = {"model_state_dict": MLP((1, 28, 28), 10).state_dict()}
    files.write(folder / "task1.1.pth", weights, {"position": state["position"]})
    atomic.update_link(folder / "best.pth", folder / "task1.1.pth")
    os.utime(path)
    for wanted in (folder, folder.parent):
        status, out, err = run_script(capsys, wanted)
        rows = [line.split()[0] for line in out.splitlines()]
        assert (status, err) == (0, "")
        assert rows == ["file", "task1.1.pth", "er_1.pt", "best.pth"]
        assert out.count("next is task 2, epoch 0, step 0; 24 steps done") == 3
        assert "best.pth -> task1.1.pth" in out
    flip(path)
    torch.save([1], folder / "odd.pt")
    status, out, err = run_script(capsys, folder)
    assert status == 1
    rows = {line.split()[0]: line.split()[2:] for line in out.splitlines()}
    assert rows["er_1.pt"] == ["no", "see", "below"]
    assert rows["odd.pt"] == ["?", "see", "below"]
    assert len(err.splitlines()) == 2
    assert len(json.loads(run_script(capsys, folder, "--json")[1])) == 4


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run_script(capsys, tmp_path)
    assert (status, err) == (2, f"perdure: {tmp_path}: holds no checkpoint (a .pt or .pth file)\n")


@pytest.mark.process
def test_as_a_command(path: Path) -> None:
    flip(path)
    done = subprocess.run(
        [sys.executable, "-m", "perdure", "inspect", path],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
