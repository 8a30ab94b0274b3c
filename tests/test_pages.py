"""docs/troubleshooting.md: each sentence is raised; docs/coming-from.md: each translation holds.

And the pages that are made by scripts: the tutorial, and links of the site.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from process import environment

import perdure
from perdure.cli import commands
from perdure.config.folder import options
from perdure.config.validation import validate
from perdure.errors import PerdureError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import make_pictures  # noqa: E402
import make_tutorial  # noqa: E402
import site_pages  # noqa: E402

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
COMING = (ROOT / "docs" / "coming-from.md").read_text()
SHORT = ("tracking.console=off", "dataset.stop_after=1")

# --- docs/troubleshooting.md ----------------------------------------------------------------------

MISTAKES = re.findall(r"^```text\n(.+)\n(.+)\n```$", TROUBLE, re.M)


def test_the_mistakes_are_found() -> None:
    assert len(MISTAKES) == TROUBLE.count("```text")
    assert len(MISTAKES) >= 20


@pytest.mark.parametrize(("command", "sentence"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_each_mistake_ends_in_its_sentence(
    command: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`…` at the end of a sentence stands for the rest of a list."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PerdureError) as error:
        perdure.train(*shlex.split(command), "tracking.console=off")
    if sentence.endswith("…"):
        assert str(error.value).startswith(sentence.removesuffix("…"))
    else:
        assert str(error.value) == sentence


def test_the_other_sentences_are_those_of_the_code() -> None:
    """Parts of messages, whose literals may go over several lines of code."""
    table = TROUBLE.split("| the sentence has | what to do |")[1].split("\n\n")[0]
    parts = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(parts) >= 6
    literals = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                literals.add("".join(map(str, found)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.add(node.value)
    text = "\n".join(literals)
    assert [part for part in parts if part not in text] == []


# --- docs/coming-from.md --------------------------------------------------------------------------


def section(name: str) -> str:
    return COMING.split(f"\n## {name}\n")[1].split("\n## ")[0]


def rows_of(name: str) -> list[tuple[str, str]]:
    """The rows of a section's first table: theirs and ours, without backticks."""
    table = re.search(r"^\| --- \| --- \|\n((?:\|.*\n)+)", section(name), re.M)
    assert table is not None
    found = re.findall(r"^\| (.+) \| (.+) \|$", table[1], re.M)
    return [(theirs.replace("`", ""), ours.replace("`", "")) for theirs, ours in found]


OURS = sorted(
    {
        words
        for row in re.findall(r"^\| .+ \| (.+) \|$", COMING, re.M)
        for words in re.findall(r"`([a-z_.]+=[^`]+)`", row)
        if not words.startswith(("replays", "store_at"))
    }
)


OPTIONS = [words for words in OURS if re.fullmatch(r"(?:model|buffer|dataset)=[\w-]+", words)]


@pytest.mark.parametrize("words", OPTIONS)
def test_each_option_exists(words: str) -> None:
    group, _, option = words.partition("=")
    assert option in options(group)


@pytest.mark.parametrize("words", [words for words in OURS if words not in OPTIONS])
def test_each_translation_composes(words: str) -> None:
    kept = [word for word in shlex.split(words) if not word.startswith("hydra.")]
    base = () if "model=" in words else ("model=derpp",)
    validate(perdure.compose(*base, *kept))


def test_the_translations_are_found() -> None:
    assert len(OURS) >= 80
    assert min(len(rows_of(name)) for name in ("Mammoth", "Avalanche", "PyCIL", "Catalyst")) >= 8


def mammoth_to_ours(command: str, table: list[tuple[str, str]]) -> list[str]:
    """A command line of Mammoth, flag by flag, as the table says."""
    keys = {}
    for theirs, ours in table:
        flags, words = re.findall(r"--(\w+) (\S+)", theirs), ours.split()
        if len(flags) == len(words):
            for (flag, example), word in zip(flags, words, strict=True):
                key, _, value = word.partition("=")
                if value == example:
                    keys[flag] = key
    return [f"{keys[flag]}={value}" for flag, value in re.findall(r"--(\w+) (\S+)", command)]


def test_the_command_of_mammoth_is_translated_and_trains() -> None:
    (theirs,) = re.findall(r"^python main\.py (.+)$", COMING, re.M)
    (ours,) = re.findall(r"^python train\.py (.+)$", COMING, re.M)
    assert mammoth_to_ours(theirs, rows_of("Mammoth")) == ours.split()
    results = perdure.train(*ours.split(), *SHORT)
    assert results["average_accuracy"]["class_il"] > 0.98  # a single task: nothing to forget
    assert results["n_epochs"] == 1


# --- other files of the repository ----------------------------------------------------------------


def test_the_version_is_everywhere_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"perdure {perdure.__version__}\n"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == perdure.__version__
    project = (ROOT / "pyproject.toml").read_text()
    assert 'version = { attr = "perdure.__version__" }' in project


@pytest.mark.process
def test_the_version_is_printed_without_torch() -> None:
    program = "import sys; from perdure.cli import commands; commands.main(['--version'])"
    program += "; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment())


def test_make_lists_its_targets() -> None:
    """The first target, and so `make` alone, prints each target with what it does."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):(.*)$", text, re.M)
    assert targets[0][0] == "help"
    assert all("## " in rest for _, rest in targets)
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.M)
    assert phony.split() == [name for name, _ in targets]
    for script in re.findall(r"scripts/\w+\.py", text):
        assert (ROOT / script).is_file()


def test_the_hooks_of_pre_commit_are_what_ci_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    ci = (ROOT / ".ci" / "run").read_text()
    for entry in entries:
        assert entry.partition(" --")[0] in ci


def test_every_page_of_the_navigation_exists() -> None:
    pages = re.findall(
        r"^ +- .*?: ([\w-]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.M
    )
    assert len(pages) >= 25
    outside = set(site_pages.PAGES.values())
    assert [p for p in pages if p not in outside and not (ROOT / "docs" / p).is_file()] == []
    left = {path.name for path in (ROOT / "docs").glob("*.md")} - set(pages)
    config = (ROOT / "mkdocs.yml").read_text().partition("not_in_nav: |")[2].partition("nav:")[0]
    assert {name for name in left if f"/{name}" not in config} == set()


# --- pages that scripts make ----------------------------------------------------------------------


def test_the_notebook_is_that_of_its_source() -> None:
    cells = make_tutorial.cells_of(make_tutorial.SOURCE.read_text())
    assert len(cells) >= 10
    found = make_tutorial.cells_in(make_tutorial.NOTEBOOK.read_text())
    assert found == cells, "run python scripts/make_tutorial.py"


def test_the_picture_is_small() -> None:
    picture = make_pictures.PICTURE.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= make_pictures.LARGEST


def test_without_a_browser_no_picture_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_pictures.main() == 1
    assert "no Chromium here" in capsys.readouterr().out


def test_links_lead_to_the_pages_of_the_site() -> None:
    text = "[a](../CHANGELOG.md) [b](forks.md#x) [c](https://x.org/docs/a.md)"
    expected = "[a](changelog.md) [b](forks.md#x) [c](https://x.org/docs/a.md)"
    assert site_pages.site_links(text, "docs/design.md") == expected
    text, expected = (
        "[a](docs/audit.md) [b](CONTRIBUTING.md#t)",
        "[a](audit.md) [b](contributing.md#t)",
    )
    assert site_pages.site_links(text, "CHANGELOG.md") == expected
    for source in site_pages.PAGES:
        assert (ROOT / source).is_file()
