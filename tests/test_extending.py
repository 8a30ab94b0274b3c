"""What docs/extending.md shows is run: its modules, options, commands and tests."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from lab import composed
from omegaconf import open_dict
from process import environment, train_in

from perdure.config.build import locate
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.models.base import Method
from perdure.run.assemble import make_trainer
from perdure.run.method_checks import check_method

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FILES: dict[str, str] = {}
for path, code in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.S):
    FILES[path] = FILES.get(path, "") + code
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]
TRAIN = [shlex.split(c)[2:] for c in COMMANDS if c.startswith("python train.py")]
AUDITS = [shlex.split(c)[1:] for c in COMMANDS if c.startswith("perdure audit")]
SHORT = ("dataset.iterations=4", "tracking.console=off", "dataset.stop_after=2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page describes."""
    folder = tmp_path_factory.mktemp("extending")
    for path, code in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)
    return folder


def test_every_block_is_one_of_a_file_or_of_commands() -> None:
    assert {"mylab/methods.py", "myconf/model/replayed.yaml", "tests/test_methods.py"} <= set(FILES)
    shown = re.findall(r"^```(\w+)\n(.*)\n", PAGE, re.M)
    first = [line for language, line in shown if language in ("python", "yaml")]
    assert sum(line.removeprefix("# ") in FILES for line in first) == len(first) - len(ICARL) - 1
    assert len(shown) == len(first) + sum(language == "bash" for language, _ in shown)
    assert len(TRAIN) + len(AUDITS) + 1 == len(COMMANDS)
    for path in re.findall(r"`((?:src|conf|tests|docs)/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists() or path in FILES, path
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link


@pytest.mark.parametrize("words", AUDITS, ids=" ".join)
def test_every_audit_passes(lab: Path, words: list[str]) -> None:
    """As an outsider runs it: real processes, in a folder outside the repository."""
    command = [sys.executable, "-m", "perdure", *words]
    done = subprocess.run(command, cwd=lab, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "no check failed"
    assert re.search(r"world size +passed +the same bits on 1 and 2 processes", done.stdout)


@pytest.mark.parametrize(
    "words", [w for w in TRAIN if "checkpoint.load" not in " ".join(w)], ids=" ".join
)
def test_every_command_trains(lab: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(str(lab))
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    monkeypatch.delitem(sys.modules, "mylab.methods", raising=False)
    composition = composed(*words, *SHORT)
    with open_dict(composition):
        composition.pop("hydra")
    validate(composition)
    config = typed(composition)
    check_method(config)
    trainer = make_trainer(config)
    own = "--config-dir=myconf" in words
    assert type(trainer.method).__module__ == ("mylab.methods" if own else "perdure.models.icarl")
    assert trainer.fit()["tasks_done"] == 2
    if config.model["name"] == "balanced":
        assert trainer.state.buffer is not None
        expected = "random" if "buffer=random" in words else "herding"
        assert trainer.state.buffer.policy.name == expected
        assert trainer.state.buffer.size == (200 if expected == "random" else 500)


@pytest.mark.process
def test_what_is_saved_is_loaded(lab: Path) -> None:
    (save,) = (words for words in TRAIN if "checkpoint.save=true" in words)
    (load,) = (words for words in TRAIN if "checkpoint.load" in " ".join(words))
    done = train_in(lab, *save, *SHORT)
    assert done.returncode == 0, done.stderr
    again = train_in(lab, *load, *SHORT[:2], "dataset.stop_after=3")
    assert again.returncode == 0, again.stderr
    assert "resumed from" in again.stdout + (lab / "outputs/mine/train.log").read_text()


@pytest.mark.process
def test_the_tests_pass(lab: Path) -> None:
    (command,) = (c for c in COMMANDS if c.startswith("python -m pytest"))
    words = [sys.executable, *shlex.split(command)[1:], "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        words, cwd=lab, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_facts_listed_are_those_of_a_method() -> None:
    (table,) = re.findall(r"^\| attribute \| when \|\n(.+?)\n\n", PAGE, re.M | re.S)
    named = [
        name for row in table.splitlines() for name in re.findall(r"`(\w+)", row.split("|")[1])
    ]
    assert len(named) >= 11
    for name in named:
        assert name in Method.__annotations__, name


ICARL = re.findall(r"```python\n(?!# )(.+?)```", PAGE, re.S)
"""Parts of the method in the repository, without the path of a file of one's own."""


def test_the_parts_of_icarl_are_the_method_s() -> None:
    source = (ROOT / "src" / "perdure" / "models" / "icarl.py").read_text()
    assert len(ICARL) >= 3
    position = -1
    for line in filter(None, (line.strip() for part in ICARL for line in part.splitlines())):
        assert (position := source.find(line, position + 1)) >= 0, line
    (shown,) = re.findall(r"```yaml\n(defaults:.+?)```", PAGE, re.S)
    option = (ROOT / "conf" / "model" / "icarl.yaml").read_text()
    for line in filter(None, shown.splitlines()):
        assert line in option
    assert locate("perdure.models.icarl.ICaRL", "model")
