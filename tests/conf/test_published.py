"""Every table of published settings reads, names what exists, and has figures that can be true."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from perdure.config.build import locate
from perdure.config.folder import CONF
from perdure.config.method_name import options_of
from perdure.config.tables import Setting, read

FILES = sorted((CONF / "published").glob("*.yaml"))
GROUPS = {"source", "scenario", "transform", "backbone", "head", "optimizer", "scheduler", "buffer"}
"""Groups that a protocol may choose from."""
KEYED = {"dataset", "training", *GROUPS}
"""First parts of the keys that it may give."""
METRICS = re.compile(
    r"(average_accuracy|average_incremental_accuracy|forgetting)\.(class|task|domain)_il"
)
PLAIN = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*")
"""What needs no quotes on a command line."""

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def options(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


@cache
def keys(group: str, option: str) -> frozenset[str]:
    """Keys of an option, with those of the options that it builds on."""
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    own = content.get(group, content) if group == "dataset" else content
    bases = [base for base in content.get("defaults", []) if base in sorted(options(group))]
    return frozenset(own).union(*(keys(group, base) for base in bases))


def settings(path: Path) -> Iterator[Setting]:
    yield from read(path).settings.values()


def runnable(path: Path) -> Iterator[Setting]:
    """Settings that can be applied: method and benchmark exist, the protocol is known."""
    for setting in settings(path):
        benchmark = setting.benchmark
        chosen = {**options_of(setting.row.method), "dataset": benchmark.dataset}
        exist = all(option in options(group) for group, option in chosen.items())
        if exist and setting.row.values is not None and not benchmark.unknown:
            yield setting


def accepted(setting: Setting, group: str) -> set[str]:
    """Keys of the option that the setting runs with; of any, where it names none that exists."""
    chosen = {**setting.protocol, **options_of(setting.row.method)}.get(group)
    known = options(group)
    return set().union(*(keys(group, option) for option in known & {chosen} or known))


@by_file
def test_names_can_be_typed(path: Path) -> None:
    assert read(path).settings
    for setting in settings(path):
        for part in (*setting.name.split("/"), setting.row.method, setting.benchmark.dataset):
            assert PLAIN.fullmatch(part), (setting.name, part)
        assert setting.name.count("/") == 2


@by_file
def test_it_says_where_it_is_from(path: Path) -> None:
    table = read(path)
    assert table.source
    assert table.title
    assert table.url.startswith("https://") or not table.url
    assert table.code or all(setting.row.values is None for setting in settings(path))


def test_no_two_files_are_one_publication() -> None:
    sources = Counter(read(path).title.lower() for path in FILES)
    assert [title for title, n in sources.items() if n > 1] == []


@by_file
def test_a_row_sets_keys_of_its_method(path: Path) -> None:
    for setting in settings(path):
        for key, value in setting.values.items():
            group, _, name = key.partition(".")
            # What YAML reads as text may have been meant as a number: 1e-5.
            assert not isinstance(value, str) or not re.match(r"[\d.]", value), (setting.name, key)
            chosen = options_of(setting.row.method)
            if group == "addon":
                assert chosen[group] in options(group), (setting.name, key)
            if group != "model" or chosen["model"] in options("model"):
                assert name in accepted(setting, group), (setting.name, key)


@by_file
def test_a_protocol_is_made_of_groups_and_their_keys(path: Path) -> None:
    for setting in settings(path):
        for key in (*setting.protocol, *setting.benchmark.unknown):
            group, dot, _ = key.partition(".")
            assert group in KEYED if dot else group in GROUPS, (setting.name, key)
        both = set(setting.benchmark.protocol) & set(setting.benchmark.unknown)
        assert both == set(), setting.name


@by_file
def test_what_can_be_applied_names_options_and_keys_that_exist(path: Path) -> None:
    for setting in runnable(path):
        chosen = {k: v for k, v in setting.protocol.items() if k in GROUPS}
        for group, option in chosen.items():
            assert option in options(group), (setting.name, group, option)
        for key in setting.protocol:
            group, dot, name = key.partition(".")
            if dot:
                option = {"dataset": setting.benchmark.dataset, "training": "continual", **chosen}
                assert name in keys(group, option[group]), (setting.name, key)


@by_file
def test_what_can_be_applied_has_a_whole_protocol(path: Path) -> None:
    needed = {"source", "scenario", "transform", "backbone", "optimizer", "scheduler"}
    for setting in runnable(path):
        row, protocol = setting.row, setting.protocol
        missing = needed - set(protocol)
        assert missing == set(), (setting.name, missing)
        assert {"dataset.n_tasks", "dataset.batch_size"} <= set(protocol), setting.name
        assert {"dataset.epochs", "dataset.iterations"} & set(protocol), setting.name
        assert "optimizer.lr" in setting.values, setting.name
        assert "buffer" in protocol or row.buffer is None, setting.name


@by_file
def test_a_method_s_own_loss_scope_is_the_one_that_applies_by_itself(path: Path) -> None:
    """`training.loss_scope=null` counts as full where a table gives nothing else."""
    for setting in runnable(path):
        if setting.protocol.get("training.loss_scope", "full") == "full":
            model = options_of(setting.row.method)["model"]
            content = (CONF / "model" / f"{model}.yaml").read_text()
            method = locate(yaml.safe_load(content)["_target_"], "model")
            assert getattr(method, "loss_scope") == "full", setting.name  # noqa: B009


@by_file
def test_what_can_be_applied_is_told_apart(path: Path) -> None:
    """No two rows hold at once for one method, benchmark, protocol and buffer size."""
    for name, n in Counter(str(_place(setting)) for setting in runnable(path)).items():
        assert n == 1, name


def _place(setting: Setting) -> tuple[Any, ...]:
    row = setting.row
    protocol: Mapping[str, Any] = setting.protocol
    return (setting.benchmark.dataset, sorted(protocol.items(), key=str), row.method, row.buffer)


@by_file
def test_figures_can_be_true(path: Path) -> None:
    for setting in settings(path):
        for figure in setting.row.figures:
            assert METRICS.fullmatch(figure.metric), (setting.name, figure)
            # A percentage, not a fraction; a forgetting may be small.
            lowest = 0 if figure.metric.startswith("forgetting") else 5
            assert lowest < figure.mean < 100, (setting.name, figure)
            assert figure.std is None or 0 < figure.std < 10, (setting.name, figure)
            assert figure.n is None or 1 <= figure.n <= 100, (setting.name, figure)
            assert figure.by or figure.origin in {"paper", "recalled"}, (setting.name, figure)


@by_file
def test_bands_hold_what_was_published(path: Path) -> None:
    for setting in settings(path):
        for metric, (low, high) in setting.row.bands.items():
            means = [figure.mean for figure in setting.row.figures if figure.metric == metric]
            assert means, (setting.name, metric)
            assert 0 <= low < min(means) <= max(means) < high <= 100, (setting.name, metric)
            assert high - low <= 5, (setting.name, metric)
