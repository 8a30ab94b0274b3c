"""What the README says is so: commands compose, options and files exist, code is the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import perdure
from perdure.cli.help import text
from perdure.config.build import locate
from perdure.config.published import CONF
from perdure.config.schema import validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
HELP = text()

COMMANDS = sorted(set(re.findall(r"python train\.py ([^#\n`]+)", README + HELP)))


def overrides_of(command: str) -> list[str]:
    """The overrides in `command`, the first choice of each sweep."""
    words = [word for word in shlex.split(command) if "=" in word and not word.startswith("-")]
    return [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    validate(perdure.compose(*overrides_of(command)))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("group", ["model", "dataset", "buffer", "backbone"])
def test_the_table_of_options_is_complete(group: str) -> None:
    (row,) = re.findall(rf"^\| {group} \| (.+) \|$", README, re.M)
    assert sorted(re.findall(r"`([^`]+)`", row)) == sorted(
        path.stem for path in (CONF / group).glob("*.yaml")
    )


PATHS = sorted(
    set(re.findall(r"`((?:src|conf|scripts|tests|docs)/[\w./-]+)`", README + DESIGN))
    | set(re.findall(r"`((?:models|datasets|training|checkpoint|tracking)/[\w./]+)`", DESIGN))
)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "src" / "perdure" / path).exists()


def test_the_table_of_methods_is_what_the_classes_say() -> None:
    rows = []
    for path in sorted((CONF / "model").glob("*.yaml"), key=lambda path: path.stem):
        (target,) = re.findall(r"^_target_: (.+)$", path.read_text(), re.M)
        method = locate(target, "model")
        can = [getattr(method, "additive"), not getattr(method, "needs_full_parameters")]  # noqa: B009
        rows.append(f"| `{path.stem}` | " + " | ".join("yes" if c else "no" for c in can) + " |")
    table = "\n".join(["| method | shards | FSDP |", "| --- | --- | --- |", *rows])
    assert table in README, f"the table should be:\n{table}"


TORCHRUN = re.findall(r"^ *torchrun [^#\n]*train\.py ([^#\n]+)", README + HELP, re.M)


@pytest.mark.parametrize("overrides", TORCHRUN)
def test_every_torchrun_command_composes(overrides: str) -> None:
    validate(perdure.compose(*overrides_of(overrides)))


def test_the_keys_of_the_table_exist() -> None:
    section = README.split("## Many processes")[1].split("## Stop")[0]
    keys = re.findall(r"^\| `(training\.[^`]+)`", section, re.M)
    assert len(keys) == 5
    validate(perdure.compose(*keys[:1], *keys[2:3], *keys[4:]))
    assert TORCHRUN


def test_the_method_shown_is_the_method() -> None:
    (shown,) = re.findall(r"```python\n(class ER.+?)```", README, re.S)
    source = (ROOT / "src/perdure/models/er.py").read_text()
    code = [line for line in shown.splitlines() if line.strip() and '"""' not in line]
    position = -1
    for line in code:
        assert (position := source.find(line, position + 1)) >= 0, line
    (yaml,) = re.findall(r"```yaml\n(_target_.+?)```", README, re.S)
    assert yaml in (CONF / "model" / "er.yaml").read_text()


def test_the_objects_work_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(
        r"```python\n(from pathlib import Path\nfrom perdure.backbones.+?)```", README, re.S
    )
    shown = shown.replace("batch_size=10, seed=0", "batch_size=10, seed=0, iterations=20")
    names: dict[str, dict] = {}
    exec(shown, names)
    assert len(names["results"]["accuracy_matrix"]["class_il"]) == 5


def test_the_floors_listed_are_the_floors() -> None:
    listed = {
        name.strip("/ ")
        for name in re.findall(r"(\w+(?:\.py|/))", DESIGN.split("## The floors")[1].split("##")[0])
    }
    package = ROOT / "src" / "perdure"
    parts = {p.name for p in package.iterdir() if p.name not in ("__init__.py", "__pycache__")}
    assert parts <= listed
