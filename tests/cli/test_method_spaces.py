"""Spaces of methods: those of conf/ fit their methods; what a file or a word may change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

from perdure.cli.method_spaces import asked, for_method, methods_of, read, with_own_space
from perdure.cli.search_space import Space, space_of
from perdure.config.compose import compose, configuration
from perdure.config.folder import CONF
from perdure.config.overrides import parse
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.errors import UserError
from perdure.run.assemble import make_method
from perdure.training.optim import OptimizerFactory

METHODS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SPACES = sorted(path.stem for path in (CONF / "search" / "spaces").glob("*.yaml"))


def own(method: str) -> Space:
    words, has_own = with_own_space([f"model={method}"], [])
    assert has_own
    return space_of(words, fallback=False)


def covering(space: Space) -> list[list[str]]:
    """Points in which each value of each axis occurs."""
    most = max(map(len, space.axes.values()))
    return [[words[min(k, len(words) - 1)] for words in space.axes.values()] for k in range(most)]


# --- those of conf/ -------------------------------------------------------------------------------


def test_every_method_has_a_space() -> None:
    assert SPACES == METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_value_is_one_that_the_method_takes(method: str, tiny: Arrays) -> None:
    space = own(method)
    assert space.size > 1
    plain = compose(f"model={method}", "backbone.hidden=[8]", "recipe=none")
    for key, values in space.values.items():
        default = OmegaConf.select(plain, key)
        assert default is not None, key
        if isinstance(default, float | int) and not isinstance(default, bool):
            assert min(values) <= default <= max(values), f"{key}={default}, the default"
    benchmark = ClassIncremental(tiny, 5, seed=0)
    for point in covering(space):
        config = plain.copy()
        for typed_value in map(parse, point):
            OmegaConf.update(config, typed_value.key, typed_value.value)
        validate(config)
        run = typed(config)
        make_method(run, benchmark, torch.device("cpu"))
        OptimizerFactory(run.optimizer)


def test_a_grid_sweep_of_hydra_takes_a_space_too() -> None:
    with configuration():
        words = ["model=derpp", "+search/spaces=derpp"]
        config = hydra_compose("train", overrides=words, return_hydra_config=True)
    found = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
    assert found == read(CONF / "search" / "spaces" / "derpp.yaml")
    assert "basic" in config.hydra.sweeper._target_


# --- words beside it ------------------------------------------------------------------------------


def test_a_word_replaces_an_axis() -> None:
    words, _ = with_own_space(["model=derpp", "model.alpha=0.7", "+optimizer.lr=0.5,0.6"], [])
    space = space_of(words, fallback=False)
    assert space.fixed == ("model=derpp", "model.alpha=0.7")
    assert list(space.axes) == ["optimizer.lr", "model.beta"]
    assert space.values["optimizer.lr"] == [0.5, 0.6]


def test_a_space_of_which_nothing_is_left_is_one_point() -> None:
    words, _ = with_own_space(["model=er", "optimizer.lr=0.1"], [])
    space = space_of(words, fallback=False)
    assert (space.size, space.axes) == (1, {})
    assert [point.words for point in space.draw(8, 0)] == [()]


def test_learning_rates_do_not_reach_another_optimizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^optimizer=adam: optimizer.lr=0.01,.* another optimizer"):
        with_own_space(["model=er", "optimizer=adam"], [])
    words, _ = with_own_space(["model=er", "optimizer=adam", "optimizer.lr=0.001,0.01"], [])
    assert words == ["model=er", "optimizer=adam", "optimizer.lr=0.001,0.01"]
    assert with_own_space(["model=er", "optimizer=sgd"], [])[1]
    folder = own_space(tmp_path, "er", "optimizer: adam\noptimizer.lr: 0.001,0.01\n")
    words, _ = with_own_space(["model=er", "optimizer=adam"], [folder])
    assert words == ["model=er", "optimizer=adam", "optimizer.lr=0.001,0.01"]
    with pytest.raises(UserError, match=r"^optimizer=sgd: "):
        with_own_space(["model=er", "optimizer=sgd"], [folder])


@pytest.mark.parametrize(
    "word", ["search=optuna", "search=default,null", "search=3", "+search/spaces=er"]
)
def test_another_search_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(word)}: must be default"):
        asked([word])


def test_what_search_asks_for() -> None:
    assert asked(["a=1"]).own is None
    assert asked(["a=1", "search=null"]).own is False
    found = asked(["search=default", "a=1"])
    assert (found.own, found.words) == (True, ("a=1",))
    with pytest.raises(UserError, match="once"):
        asked(["search=default", "search=default"])


def test_the_methods_of_a_command() -> None:
    assert methods_of(["a=1,2"]) == []
    assert methods_of(["a=1,2", "model=er"]) == ["er"]
    assert methods_of(["model=er,sgd,er"]) == ["er", "sgd"]
    assert methods_of(["model=choice(er,lab/mine)"]) == ["er", "lab/mine"]
    for word in ("model=glob(*)", "~model", "model=interval(0,1)"):
        with pytest.raises(UserError, match=r"model=er,derpp|model=NAME"):
            methods_of([word])
    with pytest.raises(UserError, match=r"^model=sgd: must be model=NAME"):
        methods_of(["model=er", "model=sgd"])


def test_the_command_of_one_of_several_methods() -> None:
    words = ["model=er,sgd", "on=a", "optimizer.lr=1,2"]
    assert for_method("sgd", words) == ["model=sgd", *words[1:], "search=default"]
    assert for_method("er", [*words, "search=null"]) == ["model=er", *words[1:], "search=null"]


def test_the_space_of_no_method_is_refused() -> None:
    with pytest.raises(UserError, match=r"^search=default: .* must come with model=NAME$"):
        with_own_space(["optimizer.lr=0.1"], [])


# --- files of one's own ---------------------------------------------------------------------------


def own_space(folder: Path, name: str, text: str) -> Path:
    (folder / "search" / "spaces").mkdir(parents=True, exist_ok=True)
    header = "# @package hydra.sweeper.params\n"
    (folder / "search" / "spaces" / f"{name}.yaml").write_text(header + text)
    return folder


def test_a_folder_adds_a_space_and_replaces_one(tmp_path: Path) -> None:
    own_space(tmp_path, "mine", "optimizer.lr: 0.1,0.2\nmodel.strength: 3\nbuffer: ring-task\n")
    own_space(tmp_path, "er", "optimizer.lr: range(1,4)\nmodel.flag: true\nmodel.other: null\n")
    words, has_own = with_own_space(["model=mine"], [tmp_path])
    assert has_own
    assert words[1:] == ["optimizer.lr=0.1,0.2", "model.strength=3", "buffer=ring-task"]
    words, _ = with_own_space(["model=er"], [tmp_path])
    assert words[1:] == ["optimizer.lr=range(1,4)", "model.flag=true", "model.other=null"]
    assert with_own_space(["model=sgd"], [tmp_path]) == with_own_space(["model=sgd"], [])


def test_a_method_without_a_space_gets_the_learning_rate() -> None:
    words, has_own = with_own_space(["model=mine"], [])
    assert not has_own
    assert space_of(words, fallback=False).values == {"optimizer.lr": [0.01, 0.03, 0.1, 0.3]}
    words, _ = with_own_space(["model=mine", "optimizer.lr=0.5"], [])
    assert space_of(words, fallback=False).size == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("optimizer: {lr: 1}\n", "optimizer: must be a key with its values"),
        ("defaults: [er]\n", "defaults: must be a key with its values"),
        ("a: '[1'\n", "a: must be a key with its values"),
        ("a: 1\n1: 2\n", "1: must be a key with its values"),
        ("+a: 1,2\n", "a: must be a key with its values"),
        ("seed: 1,2\n", "seed: is no hyperparameter"),
        ("dataset: seq-mnist\n", "dataset: is no hyperparameter"),
        ("hydra.run.dir: x\n", "hydra.run.dir: is no hyperparameter"),
        ("- 1\n", "it holds no keys"),
        ("a: [1\n", "no configuration"),
        ("a: &b [1]\nc: *b\n", "aliases"),
    ],
)
def test_a_file_that_is_no_space_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    folder = own_space(tmp_path, "er", text)
    with pytest.raises(UserError) as refused:
        with_own_space(["model=er"], [folder])
    shown = str(refused.value)
    assert sentence in shown
    assert str(folder / "search" / "spaces" / "er.yaml") in shown
    assert "\n" not in shown


def test_a_file_may_be_a_link(tmp_path: Path) -> None:
    folder = own_space(tmp_path, "other", "optimizer.lr: 1,2\n")
    spaces = folder / "search" / "spaces"
    (spaces / "er.yaml").symlink_to(spaces / "other.yaml")
    assert read(spaces / "er.yaml") == ["optimizer.lr=1,2"]
