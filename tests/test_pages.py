"""docs/troubleshooting.md: each sentence is raised; docs/coming-from.md: each translation holds.

And the pages that are made by scripts: the tutorial, and links of the site.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

import perdure
from perdure.config.folder import options
from perdure.config.validation import validate
from perdure.errors import PerdureError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
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


# --- pages that scripts make ----------------------------------------------------------------------


def test_the_notebook_is_that_of_its_source() -> None:
    cells = make_tutorial.cells_of(make_tutorial.SOURCE.read_text())
    assert len(cells) >= 10
    found = make_tutorial.cells_in(make_tutorial.NOTEBOOK.read_text())
    assert found == cells, "run python scripts/make_tutorial.py"


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
