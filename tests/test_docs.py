"""What README and docs/ say is so: commands compose, options and files exist, code is the code.

docs/extending.md is run by test_extending.py, docs/coming-from.md and docs/troubleshooting.md by
test_pages.py.
"""

from __future__ import annotations

import argparse
import csv
import pkgutil
import re
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from omegaconf import OmegaConf
from test_layers import LAYERS

import perdure
from perdure.cli import results_page
from perdure.cli.branch import sweep_of
from perdure.cli.commands import COMMANDS as SUBCOMMANDS
from perdure.cli.help import text
from perdure.cli.reproduce import Setting, setting_of
from perdure.config.folder import CONF, options
from perdure.config.overrides import Arguments, readable
from perdure.config.published import published
from perdure.config.stored import GROUPS, StoredConfig
from perdure.config.trust import refuse_locations
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.io.files import require_own
from perdure.io.redaction import Addresses

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import options_page  # noqa: E402

README = (ROOT / "README.md").read_text()
DOCS = {
    path.name: path.read_text()
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.name != "extending.md"
}
DESIGN = (ROOT / "docs" / "design.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = "\n".join([README, CONTRIBUTING, *DOCS.values()])
HELP = text()

COMMANDS = sorted(
    set(re.findall(r"(?:python train\.py|perdure train) (?!-sc |…)([^#\n`|<]+)(?!<)", PAGES + HELP))
)


def overrides_of(command: str) -> list[str]:
    """The overrides in `command`, the first choice of each sweep."""
    words = [word for word in shlex.split(command) if "=" in word and not word.startswith("-")]
    words = [re.sub(r"=range\(\d+\)$", "=0", readable(word)) for word in words]
    return [re.sub(r"=([^\[{,]+),.*", r"=\1", word) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    validate(perdure.compose(*overrides_of(command)))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 8


def test_every_subcommand_exists() -> None:
    named = set(re.findall(r"(?:^|`)perdure ([a-z][a-z-]*)", PAGES + CHANGELOG, re.M))
    assert named >= {"train", "summarize", "inspect", "prepare-data", "sync-wandb", "reproduce"}
    assert named <= set(SUBCOMMANDS)


TOOLS = sorted(
    {
        (name, re.split(r"\s{2,}|\s+#", words)[0].strip())
        for name, words in re.findall(
            r"(?:^ *|`)perdure ([a-z][a-z-]*)(?= |`|$)([^`\n]*)", PAGES, re.M
        )
        if name != "train" and not re.search(r"[…<|]", words)
    }
)


class ParsedError(Exception):
    """The command line was accepted."""


@pytest.mark.parametrize(("name", "words"), TOOLS, ids=[" ".join(tool) for tool in TOOLS])
def test_every_command_of_a_tool_is_accepted(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flags and their number of values; of the words of `perdure train`, that they compose."""

    def stopped(parse: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            raise ParsedError(parse(*args, **kwargs))

        return wrapped

    for method in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, method)
        monkeypatch.setattr(argparse.ArgumentParser, method, stopped(parse))
    typed = shlex.split(words)
    if name == "branch" and typed:  # its words are those of a sweep
        validate(perdure.compose(*overrides_of(" ".join(sweep_of(typed)))))
    elif typed:
        with pytest.raises(ParsedError):
            import_module(SUBCOMMANDS[name].module).main(typed)
    if name in ("audit", "prepare-data") and "--config-dir" not in words:
        validate(perdure.compose(*overrides_of(words)))


def test_the_commands_of_the_tools_are_found() -> None:
    assert len(TOOLS) >= 20
    assert {name for name, _ in TOOLS} == set(SUBCOMMANDS) - {"train"}


def test_the_names_of_the_changelog_exist() -> None:
    """The right column of its tables: `package.module`, or `package.module.name`."""
    rows = re.findall(r"^\| `[^|]+ \| (.+) \|$", CHANGELOG, re.M)
    names = [name for row in rows for name in re.findall(r"`(perdure[\w.]*)`", row)]
    assert len(names) >= 40
    for name in names:
        pkgutil.resolve_name(name)


LISTED = options_page.listed(DOCS["options.md"])


@pytest.mark.parametrize("group", options_page.GROUPS)
def test_the_options_that_are_listed_exist(group: str) -> None:
    """The page lists ours: a user may have added others."""
    assert LISTED[group]
    assert set(LISTED[group]) <= set(options(group))


def test_the_page_of_options_is_what_the_files_and_classes_say() -> None:
    expected = options_page.page(LISTED)
    assert DOCS["options.md"] == expected, "run python scripts/options_page.py"


def test_the_options_of_the_readme_are_those_of_the_page() -> None:
    (table,) = options_page.TABLE.findall(README)
    assert table == options_page.summary(LISTED), "run python scripts/options_page.py"


PACKAGES = "|".join(sorted(name for layer in LAYERS for name in layer))
PATHS = sorted(  # (conf/local/ is the user's own)
    set(re.findall(r"`((?:src|conf|scripts|tests|docs)/[\w./-]+)`", PAGES))
    - {"conf/local/default.yaml"}
    | set(re.findall(rf"`((?:{PACKAGES})/[\w./]+)`", DESIGN))
)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_exists(path: str) -> None:
    assert (ROOT / path).exists() or (ROOT / "src" / "perdure" / path).exists()


RESULT = re.compile(r"^\| ((?:seq|perm)-mnist/[\w-]+) \|.*\|([^|]*)\|([^|]*)\|$", re.M)
RESULTS = RESULT.findall(DOCS["sweeps.md"])


@pytest.mark.parametrize(("name", "paper", "rerun"), RESULTS, ids=[row[0] for row in RESULTS])
def test_the_published_columns_are_those_of_the_tables(name: str, paper: str, rerun: str) -> None:
    """`er-ace` on seq-mnist was not published by anybody."""
    rows = [s for s in published.settings.values() if s.name == f"dark-experience/{name}"]
    found = [setting_of(row) for row in rows] or [Setting(name)]
    for shown, figures in ((paper, found[0].paper), (rerun, found[0].rerun)):
        assert shown.strip() == " / ".join(f"{figures[k]:.2f}" for k in figures)


def test_the_results_are_found() -> None:
    """Those of the README are rows of the page."""
    assert len(RESULTS) >= 12
    rows = [line for line in README.splitlines() if RESULT.match(line)]
    assert len(rows) >= 4
    assert set(rows) <= set(DOCS["sweeps.md"].splitlines())


TORCHRUN = sorted(set(re.findall(r"^ *torchrun [^#\n]*train\.py ([^#\n]+)", PAGES + HELP, re.M)))


@pytest.mark.parametrize("overrides", TORCHRUN)
def test_every_torchrun_command_composes(overrides: str) -> None:
    validate(perdure.compose(*overrides_of(overrides)))


def test_the_keys_of_the_table_exist() -> None:
    keys = re.findall(r"^\| `(training\.[^`]+)`", DOCS["clusters.md"], re.M)
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


def test_the_benchmark_shown_is_the_benchmark() -> None:
    page = DOCS["benchmarks.md"]
    (shown,) = re.findall(r"```yaml\n(# @package _global_\n# MNIST.+?)```", page, re.S)
    assert shown == (CONF / "dataset" / "seq-mnist.yaml").read_text()


def test_the_objects_work_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = re.findall(
        r"```python\n(from pathlib import Path\nfrom perdure.backbones.+?)```",
        DOCS["python.md"],
        re.S,
    )
    shown = shown.replace("batch_size=10, seed=0", "batch_size=10, seed=0, iterations=20")
    names: dict[str, dict] = {}
    exec(shown, names)
    assert len(names["results"]["accuracy_matrix"]["class_il"]) == 5


def listed_layers() -> list[dict[str, set[str]]]:
    """The layers of the page, from the top: package (or module) → its modules, `part/module`."""
    block = DESIGN.split("## Layers")[1].split("##")[0]
    layers: list[dict[str, set[str]]] = []
    texts: dict[str, str] = {}
    for line in re.findall(r"^    .+", block, re.M):
        if start := re.match(r" {4}(\d\d| \d|  )  (\w+)(/|\.py)(.*)", line):
            number, name, _, rest = start.groups()
            if number.strip():
                layers.append({})
            layers[-1][name] = set()
            texts[name] = rest
        else:
            texts[name] += line
    for layer in layers:
        for name in layer:
            without_remarks = re.sub(r"\([^)]*\)", "", texts[name])
            for part in without_remarks.split("·"):
                folder, _, modules = part.rpartition(":")
                prefix = f"{folder.strip()}/" if folder else ""
                layer[name] |= {prefix + m.strip() for m in modules.split(",") if m.strip()}
    return layers


def test_the_layers_listed_are_those_that_are_kept() -> None:
    assert [set(layer) for layer in listed_layers()] == [set(layer) for layer in LAYERS]
    numbers = re.findall(r"^    ([\d ]\d)  \w", DESIGN.split("## Layers")[1], re.M)
    assert list(map(int, numbers)) == list(range(len(LAYERS), 0, -1))


@pytest.mark.parametrize("part", sorted(name for layer in LAYERS for name in layer))
def test_the_modules_of_a_package_are_listed(part: str) -> None:
    folder = ROOT / "src" / "perdure" / part
    files = folder.rglob("*.py") if folder.is_dir() else ()
    modules = {
        str(path.relative_to(folder).with_suffix("")) for path in files if path.stem != "__init__"
    }
    assert next(layer[part] for layer in listed_layers() if part in layer) == modules


# --- docs/security.md -----------------------------------------------------------------------------


def flat(page: str) -> str:
    """A page without its line breaks, as sentences are compared."""
    return " ".join(page.split())


def test_the_commands_of_the_page_on_security_are_checked() -> None:
    assert sum(command in SECURITY for command in COMMANDS) >= 3


LINKED = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "conf/published/README.md"]
LINKED += [f"docs/{name}" for name in (*DOCS, "extending.md")]
CODE = re.compile(r"^```.*?^```", re.M | re.S)


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub and MkDocs both give the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.M)
    words = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"\s", "-", word) for word in words}


@pytest.mark.parametrize("page", LINKED)
def test_every_linked_page_exists(page: str) -> None:
    path = ROOT / page
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", path.read_text()):
        target = path.parent / link if link else path
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{link}#{anchor}"


def test_the_readme_fits_on_a_screen_or_two() -> None:
    lines = CODE.sub("", README).splitlines()
    assert len(README.splitlines()) <= 120
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


def test_the_groups_that_a_file_may_set_are_those_of_the_code() -> None:
    (row,) = re.findall(r"^\| groups with values \| (.+) \|$", SECURITY, re.M)
    assert re.findall(r"`([^`]+)`", row) == list(GROUPS)


def test_the_limits_listed_are_the_defaults() -> None:
    rows = re.findall(r"^\| `((?:checkpoint|data)\.max_\w+)` \| (\d+) \|", SECURITY, re.M)
    config = perdure.compose()
    assert len(rows) == 3
    assert {key: int(n) for key, n in rows} == {
        key: OmegaConf.select(config, key) for key, _ in rows
    }


def test_the_sentence_on_a_class_is_the_one_that_is_raised() -> None:
    args = {"model": {"_target_": "mylab.models.NCM"}}
    with pytest.raises(UserError) as error:
        StoredConfig({"args": args}, "old.pt").overrides(Arguments(()))
    assert str(error.value) in flat(SECURITY)


def test_the_sentence_on_an_address_is_the_one_that_is_raised() -> None:
    mirrors = ["http://127.0.0.1/x"]
    source = {"_target_": "perdure.datasets.sources.FashionMNIST", "mirrors": mirrors}
    with pytest.raises(UserError) as error:
        refuse_locations({"dataset": {"source": source}}, {"dataset.source.mirrors"}, (), "old.pt")
    assert str(error.value) in flat(SECURITY)


def test_the_sentence_on_a_redacted_address_is_the_one_that_is_raised() -> None:
    with pytest.raises(UserError) as error:
        Addresses().restore("https://example.org/er.pt?token=***", "checkpoint.load")
    assert str(error.value) in flat(SECURITY)


def test_the_sentence_on_a_link_is_the_one_that_is_raised(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "train.log").symlink_to("/etc/motd")
    with pytest.raises(UserError) as error:
        require_own(tmp_path / "h")
    message = str(error.value).replace(f"{tmp_path.resolve()}/", "")
    assert message.replace(str(Path("/etc/motd").resolve()), "/etc/motd") in flat(SECURITY)


# --- docs/results.md ------------------------------------------------------------------------------


def test_the_page_of_results_is_the_sheet_s() -> None:
    """So no figure in it is typed: published ones are the tables', verdicts are computed."""
    text = (ROOT / "docs" / "results.csv").read_text()
    rows = results_page.of_sheet(text, published.settings)
    times = results_page.step_times(ROOT / "docs" / results_page.STEP_TIMES)
    page = results_page.page(results_page.lines_of(rows), times)
    assert (ROOT / "docs" / "results.md").read_text() == page


# --- docs/example.md ------------------------------------------------------------------------------


def test_the_numbers_of_the_example_are_those_of_its_runs() -> None:
    with (ROOT / "docs" / "example.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    page = (ROOT / "docs" / "example.md").read_text()
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for run in runs:
        groups.setdefault((run["model"], run["buffer.size"]), []).append(run)
    assert len(groups) == 8
    for (model, size), members in groups.items():
        assert len({run["seed"] for run in members}) == 5
        (row,) = re.findall(rf"^\| {re.escape(model)} +\| {size} .*$", page, re.M)
        for metric in (
            "average_accuracy.class_il",
            "average_accuracy.task_il",
            "forgetting.class_il",
        ):
            values = [100 * float(run[metric]) for run in members]
            assert f"{mean(values):.2f} ± {stdev(values):.2f}" in row
