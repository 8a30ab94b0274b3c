"""What is shown to a person cannot take over the terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import ExitRun, UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\x1b[2Jb", "a [2Jb", id="escape"),
        pytest.param("a\x9b2Jb", "a 2Jb", id="c1"),
        pytest.param("a\rb\nc", "a b c", id="lines"),
        pytest.param("a\x00\x07\x08b", "a   b", id="c0"),
        pytest.param("a\u202egpj.exe", "a gpj.exe", id="bidi-override"),
        pytest.param("a\u2066b\u2069", "a b ", id="bidi-isolate"),
        pytest.param("a\u2028b", "a b", id="line-separator"),
        pytest.param("a\ud800b", "a b", id="half-a-character"),
        pytest.param("größe π – ✓", "größe π – ✓", id="letters-stay"),
    ],
)
def test_what_steers_a_terminal_becomes_a_space(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(UserError(text)) == shown
    assert ExitRun(text, 2).sentence == shown


@given(st.text())
def test_whatever_it_is_it_can_be_shown(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
