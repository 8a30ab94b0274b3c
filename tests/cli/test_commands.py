"""`perdure COMMAND`, `python -m perdure COMMAND`, `python train.py`, and completion in a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process import ROOT, environment

from perdure.cli.commands import COMMANDS, main

pytestmark = pytest.mark.process

PROGRAM = Path(sys.executable).with_name("perdure")


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment(), **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = run(PROGRAM, name, "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 3
    assert done.stderr == ""


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)


def test_an_unknown_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("perdure: trian: there is no such command; must be train, ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "program",
    [
        pytest.param([PROGRAM, "train"], id="perdure"),
        pytest.param([sys.executable, "-m", "perdure", "train"], id="module"),
        pytest.param([sys.executable, ROOT / "train.py"], id="script"),
    ],
)
def test_the_program_is_the_same_whatever_its_name(tmp_path: Path, program: list[str]) -> None:
    tiny = ("model=sgd", "dataset.iterations=3", "dataset.stop_after=1", "tracking.console=off")
    done = run(*program, *tiny, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "finished"
    wrong = run(*program, "modle=sgd", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert wrong.stderr.startswith("perdure: modle: there is no such key")


def test_published_settings_are_listed() -> None:
    done = run(PROGRAM, "published", "model=derpp", "dataset=seq-mnist")
    rows = [line.split() for line in done.stdout.splitlines() if "model.alpha=" in line]
    assert {row[0] for row in rows} >= {"derpp-200", "derpp-500", "derpp-5120"}
    assert all(row[0].startswith("derpp-") for row in rows)
    assert "dark-experience: Buzzega et al. 2020 (NeurIPS)" in done.stdout
    assert "optimizer=sgd scheduler=none" in done.stdout
    wrong = run(PROGRAM, "published", "model=nothing")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("perdure: model=nothing: no setting is published; ")


def test_a_setting_is_listed_by_the_start_of_its_name() -> None:
    whole = run(PROGRAM, "published", "dark-experience/seq-mnist/er-500")
    assert run(PROGRAM, "published", "seq-mnist/er-500").stdout == whole.stdout
    (row,) = [line for line in whole.stdout.splitlines() if "optimizer.lr=" in line]
    assert row.split()[0] == "er-500"
    assert "87.02 ± 1.12 rerun" in row


COMPLETE = """
eval "$({program} -sc install=bash)"
COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
read -ra COMP_WORDS <<< "$COMP_LINE"
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
hydra_bash_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("program", "line", "expected"),
    [
        ("python train.py", "python train.py model=der", {"model=der", "model=derpp"}),
        ("perdure", "perdure train model=der", {"model=der", "model=derpp"}),
        ("perdure", "perdure train optimizer.l", {"optimizer.lr="}),
        ("perdure", "perdure pu", {"published"}),
    ],
)
def test_a_shell_completes(program: str, line: str, expected: set[str]) -> None:
    path = os.pathsep.join([str(PROGRAM.parent), os.environ["PATH"]])
    done = run("bash", "-c", COMPLETE.format(program=program, line=line), PATH=path)
    assert set(done.stdout.split()) == expected, done.stderr
