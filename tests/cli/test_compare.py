"""`perdure compare`: arms by conditions and by folders, formats, mistakes."""

from __future__ import annotations

import csv
import io
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from process import environment
from runs_of import make_run

from perdure.cli import commands
from perdure.cli.compare import main

LEAD = (0.05, 0.04, 0.06, 0.03, 0.05, 0.04)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed, lead in enumerate(LEAD):
        make_run(tmp_path / "a" / str(seed), "derpp", seed, accuracy=0.5 + lead)
        make_run(tmp_path / "b" / str(seed), "er", seed, accuracy=0.5 + 0.01 * (seed % 2))
    return tmp_path


def failing(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_two_methods(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=derpp", "model=er", "--in", str(sweep)]) == 0
    first, empty, heads, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("derpp beats er on average_accuracy.class_il by 4.00 points (95 % ")
    assert first.endswith(", p = .031, exact sign-flip test, n = 6 seeds).")
    assert empty == ""
    assert heads.startswith("| comparison ")


def test_two_folders(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(sweep / "a" / "9", "derpp", 9, results={"status": "failed"})
    assert main([str(sweep / "b"), f"{sweep}/a"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a beats b on average_accuracy.class_il by 4.00 points")
    assert "b and a also differ in model (er, derpp)." in out
    assert "1 run of a not finished, left out." in out


def test_folders_of_one_name_are_called_by_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(tmp_path / part / "sweep") for part in "ab"]
    for place in places:
        make_run(Path(place, "0"), "er", 0)
    assert main(places) == 0
    assert capsys.readouterr().out.startswith(f"{places[0]} and {places[1]} cannot be told apart ")


def test_the_other_formats(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=derpp", "model=er", "--in", str(sweep), "--format"]
    assert main([*words, "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["a"], row["b"], row["verdict"], row["pairs"]) == ("derpp", "er", "better", "6")
    assert float(row["p"]) == 2**-5
    assert main([*words, "latex"]) == 0
    assert capsys.readouterr().out.startswith("% needs \\usepackage{booktabs}\n\\begin{tabular}")


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_other_tests(sweep: Path, capsys: pytest.CaptureFixture[str], test: str) -> None:
    words = ["model=derpp", "model=er", "--in", str(sweep), "--test", test, "--level", "0.1"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("derpp beats er ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model=er"], "model=er: must be two different arms or more"),
        (["model=er", "model=er"], "model=er model=er: must be two different arms or more"),
        (["model=er", "model=si"], "--in: is not set"),
        (["model=er", "."], "model=er .: must be all conditions, key=value, or all folders"),
        (["a", "b", "--in", "."], "--in: the arms are folders already"),
        (["nowhere", "elsewhere"], "nowhere: there is no run"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert failing(*arguments) == 2
    assert f"perdure: {sentence}" in capsys.readouterr().err


@pytest.mark.process
def test_it_needs_neither_torch_nor_scipy(sweep: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['scipy'] = sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from perdure.cli import compare, summarize\n"
        f"compare.main(['model=derpp', 'model=er', '--in', {str(sweep)!r}])\n"
        f"summarize.main([{str(sweep)!r}])\n"
        f"compare.main(['model=derpp', 'model=er', '--in', {str(sweep)!r}, '--test', 'wilcoxon'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.count("| model |") == 1
    assert done.stderr.startswith("perdure: --test wilcoxon: SciPy is not installed; pip install ")


PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
COMMANDS = re.findall(r"^    perdure ((?:summarize|compare) (?!wandb:).*)$", PAGE.read_text(), re.M)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the page names."""
    root = tmp_path_factory.mktemp("page")
    forgetting = {"forgetting": {"class_il": 0.2}}
    for model in ("derpp", "er", "sgd"):
        for seed, size in itertools.product(range(3), (200, 500)):
            buffer = {"buffer": {"size": size}}
            folder = root / "outputs" / "my-sweep" / f"{model}-{size}-{seed}"
            make_run(folder, model, seed, f"buffer.size={size}", config=buffer, results=forgetting)
    for seed in range(3):
        make_run(root / "outputs" / "a" / str(seed), "derpp", seed, "model.alpha=0.3")
        make_run(root / "outputs" / "b" / str(seed), "er", seed)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(outputs)
    monkeypatch.setattr(sys, "argv", ["perdure"])  # a subcommand replaces it
    assert commands.main(shlex.split(command)) == 0


def test_there_are_commands_on_the_page() -> None:
    assert len(COMMANDS) == 8
