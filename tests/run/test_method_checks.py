"""What a method's class says is enough: nothing of it stands in a configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiers import cases

import perdure
from perdure.checkpoint.core.migrate import migrated
from perdure.config.folder import CONF, options
from perdure.config.schema import Config
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.models.base import Method
from perdure.models.replay import uses_buffer
from perdure.run.method_checks import (
    check_method,
    ignored_overrides,
    method_class,
    replay_label,
    replay_size,
)

MODELS = options("model")
OFTEN = ("sgd", "er", "icarl", "gdumb", "si", "cumulative", "packnet")
"""Without and with replay, exemplars, joint training."""


def config_of(*overrides: str) -> Config:
    return typed(perdure.compose(*overrides))


@pytest.mark.parametrize("model", MODELS)
def test_no_file_repeats_what_the_class_says(model: str) -> None:
    keys = OmegaConf.load(CONF / "model" / f"{model}.yaml")
    assert not set(map(str, keys)) & ({"needs_buffer"} | Method.__annotations__.keys())


@pytest.mark.parametrize("model", cases(MODELS, OFTEN))
def test_only_a_method_with_replay_uses_and_needs_a_buffer(model: str) -> None:
    config = config_of(f"model={model}", "buffer.size=77")
    without = config_of(f"model={model}", "buffer=none")
    if uses_buffer(method_class(config)):
        assert replay_size(config, 10) == 77
        verb = "replays from" if method_class(config).replays else "keeps exemplars in"
        with pytest.raises(UserError, match=f"^model={model} with buffer=none: {model} {verb} a"):
            check_method(without)
    else:
        assert replay_size(config, 10) == replay_size(without, 10) == 0
        check_method(without)
    check_method(config)


def test_a_quota_of_each_class_gives_the_capacity() -> None:
    config = config_of("model=er", "buffer=random", "buffer.per_class=20")
    check_method(config, ["buffer=random", "buffer.per_class=20"])
    assert (replay_size(config, 10), replay_label(config)) == (200, "20-per-class")
    without = config_of("model=sgd", "buffer=random", "buffer.per_class=20")
    assert (replay_size(without, 10), replay_label(without)) == (0, "0")
    by_size = config_of("model=er", "buffer=random", "buffer.size=70")
    assert (replay_size(by_size, 10), replay_label(by_size)) == (70, "70")
    both = ["buffer.size=500", "buffer.per_class=20"]
    message = r"^buffer\.size=500 with buffer\.per_class=20: the capacity is one or the other; "
    with pytest.raises(UserError, match=message):
        check_method(config, both)
    check_method(config, both, taken={"buffer.size"})


@pytest.mark.parametrize("model", cases(MODELS, OFTEN))
def test_training_jointly_is_refused_where_the_class_does(model: str) -> None:
    config = config_of(f"model={model}", "training=joint")
    if method_class(config).joint:
        check_method(config)
    else:
        with pytest.raises(UserError, match=f"^model={model} with training=joint: {model} is not"):
            check_method(config)


@pytest.mark.parametrize(
    "target", ["perdure.backbones.mlp.MLP", "perdure.config.compose.compose", None]
)
def test_what_is_no_method_is_refused(target: str | None) -> None:
    with pytest.raises(UserError, match=f"^model._target_={target}: must be a class derived from"):
        method_class(config_of(f"model._target_={target or 'null'}"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=sgd", "buffer.size=200"], ["buffer.size=200"]),
        (["model=si", "buffer=class-balanced", "buffer.size=9"],
         ["buffer=class-balanced, buffer.size=9"]),
        (["model=sgd", "buffer=none"], []),
        (["model=sgd", "seed=1"], []),
        (["model=er", "buffer.size=200"], []),
    ],
)  # fmt: skip
def test_options_of_a_buffer_that_is_not_kept_are_reported(
    overrides: list[str], told: list[str]
) -> None:
    name = overrides[0].partition("=")[2]
    said = [f"{name} keeps no buffer: {given} has no effect" for given in told]
    assert list(ignored_overrides(config_of(*overrides), overrides)) == said


@pytest.mark.parametrize("format_number", [1, 2])
def test_what_older_checkpoints_repeat_of_the_class_is_left_out(format_number: int) -> None:
    model = {"_target_": "perdure.models.er.ER", "name": "er", "needs_buffer": True, "joint": True}
    state = {"format": format_number, "args": {"model": model, "seed": 0}}
    args = migrated(state)["args"]
    assert args["model"] == {"_target_": "perdure.models.er.ER", "name": "er"}
    assert model["needs_buffer"]


def test_a_model_s_own_file_of_earlier_days_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = "_target_: perdure.models.er.ER\nname: mine\nneeds_buffer: true\njoint: true\n"
    (tmp_path / "model" / "mine.yaml").write_text(text)
    search = f"hydra.searchpath=['file://{tmp_path}']"
    with pytest.raises(UserError, match=r"needs_buffer=True: the class says it .*take the key out"):
        validate(perdure.compose(search, "model=mine"))
