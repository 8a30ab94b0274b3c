"""Configurations from files are data."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.config import yaml_data
from perdure.errors import UserError


def read(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return yaml_data.config(path)


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_references_to_plain_values_are_followed(tmp_path: Path) -> None:
    text = "seed: 3\na: {b: '${seed}', c: '${a.b}', d: ['${a.c}']}\nt: '${a.e}'\n"
    assert read(tmp_path, text) == {"seed": 3, "a": {"b": 3, "c": 3, "d": [3]}, "t": "${a.e}"}


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "${oc.env:HOME,x}",
        "${oc.decode:'1'}",
        "${oc.select:seed}",
        "${oc.create:{a: 1}}",
        "${run_timestamp:/tmp}",
        "${by_buffer_size:{1:2}}",
        "${hydra:runtime.cwd}",
        "${seed}${seed}",
        "x ${seed}",
        "${${name}}",
        "${.seed}",
        "${..seed}",
        "${a[0]}",
        "${nothing}",
        "${seed.x}",
        "${group}",
        "${round}",
        "${env}",
        "\\${seed}",
        "???",
    ],
)
def test_everything_else_stays_the_text_that_it_is(tmp_path: Path, text: str) -> None:
    rest = "seed: 3\nname: seed\ngroup: {a: 1}\nround: ${again}\nagain: ${round}\nenv: ${text}\n"
    quoted = text.replace("'", "''")
    assert read(tmp_path, f"{rest}text: '{quoted}'\n")["text"] == text


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(LAUGHS, "aliases", id="a-billion-laughs"),
        pytest.param("a: &a {b: 1}\nc: {<<: *a}\n", "aliases", id="merge"),
        pytest.param("a: &a [*a]\n", "aliases", id="itself"),
        pytest.param("a: " + "x" * yaml_data.LIMIT, "more than 1,048,576 bytes", id="large"),
        pytest.param("a: " + "[" * 100_000, "no configuration", id="deep-lists"),
        pytest.param("a: " + "{a: " * 100_000, "no configuration", id="deep-objects"),
        pytest.param("a: !!python/object/apply:os.system [x]\n", "no configuration", id="python"),
        pytest.param("a: !!python/name:os.system\n", "no configuration", id="python-name"),
        pytest.param("a: [\n", "no configuration", id="torn"),
        pytest.param(b"\xff\xfe\x00", "no configuration", id="no-text"),
        pytest.param("a: \x1b[2J", "no configuration", id="escape"),
        pytest.param("[1]", "holds no keys", id="list"),
        pytest.param("", "holds no keys", id="empty"),
        pytest.param("a: " + "9" * 5000, "no configuration", id="digits"),
    ],
)
def test_what_is_no_configuration_is_told(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in refused(tmp_path, text)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(Path.mkdir, id="folder"),
        pytest.param(lambda p: p.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda p: p.symlink_to(p.with_name("there.yaml")), id="link"),
        pytest.param(lambda p: None, id="nothing"),
    ],
)
def test_what_is_no_file_of_its_own_is_told(tmp_path: Path, make: Callable[[Path], object]) -> None:
    (tmp_path / "there.yaml").write_text("a: 1\n")
    path = tmp_path / "config.yaml"
    make(path)
    with pytest.raises(UserError, match="cannot be read"):
        yaml_data.config(path)


def test_odd_values_become_text(tmp_path: Path) -> None:
    text = f"2020-01-01: 2020-01-02\nb: !!binary aGk=\nc: !!set {{x}}\nd: 0x{'f' * 5000}\n1: .inf\n"
    found = read(tmp_path, text)
    assert found["2020-01-01"] == "2020-01-02"
    assert (found["b"], found["c"], found["d"]) == ("b'hi'", "{'x'}", "…")
    assert found["1"] == float("inf")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_no_text_raises_more_than_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    path = tmp_path_factory.mktemp("it") / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    with suppress(UserError):
        assert isinstance(yaml_data.config(path), dict)
