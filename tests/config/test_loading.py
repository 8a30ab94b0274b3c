"""The keys that name a checkpoint are read as Hydra reads them, however they are spelled."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from perdure.config.compose import register
from perdure.config.loading import loading, sets_load
from perdure.config.overrides import Arguments, override, parse
from perdure.errors import UserError

register()


def read(*words: str) -> tuple[str | None, bool, str]:
    found = loading(Arguments(words))
    return found.checkpoint.load, found.checkpoint.fork, str(found.output_root)


@pytest.mark.parametrize(
    "typed",
    [
        "fork=true",
        "fork=yes",
        "+fork=on",
        "++fork=1",
        "fork='true'",
        "++fork='on'",
        "fork=off fork=y",
    ],
)
def test_a_fork_is_one_in_every_spelling_of_true(typed: str) -> None:
    words = [word.replace("fork", "checkpoint.fork") for word in typed.split()]
    assert read("checkpoint.load=x", *words)[:2] == ("x", True)


def test_the_last_word_counts() -> None:
    assert read("checkpoint.load=x", "checkpoint.fork=yes", "++checkpoint.fork=off")[1] is False


def test_interpolations_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/runs")
    assert read("checkpoint.load=${oc.env:RUNS}/${seed}", "seed=3")[0] == "/runs/3"
    assert read("checkpoint.load=latest", "output_root=${oc.env:RUNS}/x")[2] == "/runs/x"
    assert read("checkpoint.load=latest", "output_root='a b'")[2] == "a b"
    with pytest.raises(UserError, match=r"^checkpoint\.load=\$\{nothing\}: .*nothing.* \\\$\{"):
        read("checkpoint.load=${nothing}")


def test_values_of_options_that_only_the_file_chooses_do_no_harm() -> None:
    typed = ("model.alpha=0.3", "scheduler.T_max=5", "tracking.wandb.project=x", "~model.beta")
    assert read("checkpoint.load=x", *typed)[0] == "x"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("checkpoint.fork=maybe",), "checkpoint.fork: .*maybe"),
        (("checkpoint.max_minutes=soon",), "checkpoint.max_minutes: .*soon"),
        (("model=nothing",), "model=nothing: there is no such model"),
    ],
)
def test_a_value_that_cannot_be_is_refused(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read("checkpoint.load=x", *words)


@pytest.mark.parametrize(
    ("words", "is_named"),
    [
        (("++checkpoint.load=x",), True),
        (("+checkpoint={load:x}",), True),
        (("-m", "checkpoint.load=x", "seed=0,1"), True),
        (("-m", "checkpoint.load=x,y"), False),
        (("-m", "checkpoint.load=runs/${seed}", "seed=0,1"), False),
        (("checkpoint.fork=true",), False),
    ],
)
def test_a_reference_of_one_job_alone_is_left_to_that_job(
    words: tuple[str, ...], is_named: bool
) -> None:
    assert sets_load(Arguments(words)) is is_named


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(string.ascii_letters + " '\"\\${},[]()=:;~#%*?1é"), min_size=1))
def test_any_name_can_be_written(name: str) -> None:
    typed = parse(override("key", name))
    held = OmegaConf.create({"key": typed.value})
    if "???" not in name:  # OmegaConf's own word for a value that is missing
        assert not typed.is_sweep
        assert OmegaConf.to_container(held, resolve=True) == {"key": name}


def test_a_plain_name_is_written_plainly() -> None:
    assert override("checkpoint.load", "outputs/20261122-081146") == (
        "checkpoint.load=outputs/20261122-081146"
    )
