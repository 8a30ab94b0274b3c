"""`perdure evaluate`: what it prints, and its one sentence for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from process import environment

from perdure.cli.commands import main

pytestmark = pytest.mark.process

FILE = Path(__file__).parents[1] / "fixtures" / "foreign" / "mammoth_er_task2.pt"


def test_a_checkpoint_is_measured_and_shown(tmp_path: Path) -> None:
    words = ("evaluate", f"checkpoint={FILE}", "model=sgd", "tasks=3", "predictions=true")
    done = subprocess.run(
        [sys.executable, "-m", "perdure", *words], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "sgd on seq-mnist (test split): mammoth_er_task2.pt"
    assert any(line.startswith("task 1: classes 2, 3 2,042 87.12 97.80 ") for line in lines)
    assert any(line.startswith("class 5 ") for line in lines)
    assert any(line.startswith("is 0 ") for line in lines)
    (folder,) = (tmp_path / "outputs").iterdir()
    assert lines[-1] == f"written to outputs/{folder.name}"
    assert (folder / "predictions.npz").is_file()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "checkpoint=: is not set"),
        (["checkpoint=x.pt", "tasks=some"], "tasks=some: must be seen, all, or how many"),
        (["checkpoint=x.pt", "predictions=1"], "predictions=1: must be true or false"),
        (["checkpoint=x.pt", "hydra.run.dir=x"], "hydra.run.dir=x: perdure evaluate takes"),
        (["checkpoint.load=none.pt"], "none.pt: no such file"),
        (["checkpoint=x.pt", "seed=1,2"], "seed=1,2: perdure evaluate measures one checkpoint"),
        (["checkpoint=x.pt", "modle=er"], "modle"),
        (["checkpoint=none.pt"], "none.pt: no such file"),
        (["checkpoint=latest", "output_root=none"], "checkpoint=latest: no run under none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])  # which `main` sets: it is restored
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *words])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
