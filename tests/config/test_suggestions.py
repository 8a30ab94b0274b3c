"""Did you mean: mistyped keys, names from other programs, flags, and values that need quotes."""

from __future__ import annotations

import shlex

import pytest
from hydra import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.config.compose import configuration
from perdure.config.error_messages import explain
from perdure.config.overrides import parse, readable
from perdure.config.suggestions import _ELSEWHERE, keys_like, known_keys, require_no_flags, spelled
from perdure.errors import UserError


def sentence(*words: str) -> str:
    """What a user reads who types `words`."""
    with configuration(), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("train", overrides=list(words))
    return explain(caught.value, words)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["modle=er"], "model"),
        (["optimiser=adam"], "optimizer"),
        (["model=derpp", "model.aplha=1"], "model.alpha"),
        (["model=si", "model.x=1"], "model.xi"),
        (["model=er", "model.alpha=1"], None),
        (["lr=0.1"], "optimizer.lr"),
        (["momentum=0.9"], "optimizer.momentum"),
        (["epoch=3"], "dataset.epochs"),
        (["n_epochs=3"], "dataset.epochs"),
        (["buffer_size=3"], "buffer.size"),
        (["buffer.sise=3"], "buffer.size"),
        (["tracking=wandb", "wandb_project=x"], "tracking.wandb.project"),
        (["nonsense=1"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_unknown_key_names_the_one_that_was_meant(words: list[str], meant: str | None) -> None:
    key = words[-1].partition("=")[0]
    hint = "" if meant is None else f" (did you mean {meant}?)"
    assert sentence(*words) == (
        f"{key}: there is no such key{hint}; perdure train --cfg job lists all"
    )


@pytest.mark.parametrize("name", sorted(_ELSEWHERE))
def test_the_names_of_other_programs_lead_to_keys_that_exist(name: str) -> None:
    words = ["tracking=wandb"]
    assert keys_like(name, words) == [_ELSEWHERE[name]]
    assert _ELSEWHERE[name] in set(known_keys(words))


@pytest.mark.parametrize(
    ("words", "shown", "advice"),
    [
        (["--model", "er"], "--model er", "write model=er"),
        (["--lr=0.1"], "--lr=0.1", "write optimizer.lr=0.1"),
        (["seed=1", "--n_epochs", "5"], "--n_epochs 5", "write dataset.epochs=5"),
        (["--seed", "model=er"], "--seed", "write seed=…"),
        (["--nowand"], "--nowand", "perdure train --help lists them"),
    ],
    ids=["model", "alias", "after", "no-value", "unknown"],
)
def test_a_flag_is_told_as_an_override(words: list[str], shown: str, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        require_no_flags(words)
    expected = f"{shown}: there is no such flag; settings are key=value: {advice}"
    assert str(caught.value) == expected


def test_the_flags_of_hydra_are_flags() -> None:
    require_no_flags(["-m", "--cfg", "job", "--resolve", "--config-dir", "x", "model=er"])


PATHS = [
    "/data/run (1)", "/data/é", "/data/a&b", "/data/a#1", "/data/lr=0.1", "/data/o'brien",
    "~/runs", "/data/a[0]", "/data/a!", 'a"b', "a{b", "a,b", "x: y",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_value_that_needs_quotes_is_shown_with_them(path: str) -> None:
    text = f"output_root={path}"
    if parse(text).override is not None and parse(text).value == path:
        return
    (word,) = shlex.split(spelled(text))
    assert parse(word).value == path


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12))
def test_the_advice_is_taken_by_the_grammar_and_means_the_value(value: str) -> None:
    advice = spelled(f"output_root={value}")
    (word,) = shlex.split(advice)
    assert parse(word).override is not None
    if not set(value) & set("$\\"):
        assert parse(word).value == value


def test_what_is_no_pair_has_no_advice() -> None:
    assert spelled("nothing") == ""
    assert sentence("(x") == "(x: cannot be read as an override; write key=value"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("training.clip_norm=choice(null,1.0)", "training.clip_norm=null,1.0"),
        ("a=choice(1,2)", "a=choice(1,2)"),
        ("a=choice(null)", "a=choice(null)"),
        ("a=null,1", "a=null,1"),
        ("a=choice(null,", "a=choice(null,"),
    ],
)
def test_a_choice_may_hold_null(text: str, meant: str) -> None:
    assert readable(text) == meant
