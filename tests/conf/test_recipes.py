"""Published hyperparameters: every recipe and every experiment composes, and the two agree."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import perdure
from perdure.config.folder import CONF
from perdure.config.published import notices
from perdure.config.schema import Mode, validate

RECIPES = sorted((CONF / "recipe").glob("*/*.yaml"))
EXPERIMENTS = sorted((CONF / "experiment").glob("*/*/*.yaml"))
BENCHMARKS = sorted({path.parent.name for path in EXPERIMENTS})
HYPERPARAMETERS = ("model", "optimizer", "scheduler", "buffer", "backbone", "dataset")


@cache
def by_recipe(dataset: str, model: str) -> DictConfig:
    return perdure.compose(f"dataset={dataset}", f"model={model}")


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    return {key: OmegaConf.to_container(config[key], resolve=True) for key in HYPERPARAMETERS}


def file_name(config: DictConfig) -> str:
    """An experiment's file is called after its method and, where it has one, its buffer."""
    if config.training.mode is Mode.joint:
        return "joint"
    name = str(config.model.name)
    return f"{name}-{config.buffer.size}" if config.model.needs_buffer else name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_belongs_to_its_dataset_and_model(path: Path) -> None:
    config = by_recipe(path.parent.name, path.stem)
    validate(config)
    assert (config.dataset.name, config.model.name) == (path.parent.name, path.stem)
    assert config.recipe.source
    assert bool(config.recipe.buffer_sizes) == config.model.needs_buffer
    assert notices(config, []) == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipe_sets_only_keys_that_exist(path: Path) -> None:
    options = {
        "model": path.stem,
        "optimizer": "sgd",
        "buffer": "reservoir",
        "dataset": path.parent.name,
    }
    published = yaml.safe_load(path.read_text())
    del published["recipe"]
    for group, values in published.items():
        known = yaml.safe_load((CONF / group / f"{options[group]}.yaml").read_text())
        assert values.keys() <= known.keys()


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=BENCHMARKS)
def test_experiments_equal_their_recipes(benchmark: str) -> None:
    for path in EXPERIMENTS:
        if path.parent.name != benchmark:
            continue
        option = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        config = perdure.compose(f"experiment={option}")
        validate(config)
        assert (config.dataset.name, file_name(config)) == (benchmark, path.stem)
        assert notices(config, [f"experiment={option}"]) == []
        recipe = by_recipe(benchmark, config.model.name).copy()
        if config.model.needs_buffer:
            assert config.buffer.size in recipe.recipe.buffer_sizes
            recipe.buffer.size = config.buffer.size
        assert hyperparameters(config) == hyperparameters(recipe), option


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=BENCHMARKS)
def test_experiments_cover_every_published_buffer_size(benchmark: str) -> None:
    expected = {"joint"}
    for path in (CONF / "recipe" / benchmark).glob("*.yaml"):
        sizes = yaml.safe_load(path.read_text())["recipe"].get("buffer_sizes", [])
        expected |= {f"{path.stem}-{size}" for size in sizes} or {path.stem}
    assert {path.stem for path in EXPERIMENTS if path.parent.name == benchmark} == expected


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=BENCHMARKS)
def test_experiments_are_explicit_and_show_their_command(benchmark: str) -> None:
    for path in EXPERIMENTS:
        if path.parent.name != benchmark:
            continue
        option = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        text = path.read_text()
        assert f"#   python train.py experiment={option}\n" in text
        assert "${" not in text
        given = yaml.safe_load(text)
        assert given["dataset"].keys() == {"epochs", "batch_size"}
        assert "lr" in given["optimizer"]
        if path.stem[-1].isdigit():
            assert given["buffer"].keys() == {"size", "batch_size"}


def test_published_values_need_no_recipe_named() -> None:
    config = perdure.compose("model=derpp", "dataset=perm-mnist", "buffer.size=200")
    assert (config.model.alpha, config.model.beta) == (1.0, 1.0)
    assert (config.optimizer.lr, config.buffer.batch_size) == (0.1, 128)
    config = perdure.compose("model=derpp", "dataset=perm-mnist", "buffer.size=5120")
    assert (config.model.alpha, config.model.beta, config.optimizer.lr) == (0.5, 1.0, 0.2)


def test_override_wins_over_recipe() -> None:
    config = perdure.compose(
        "model=derpp",
        "dataset=seq-mnist",
        "optimizer.lr=0.7",
        "model.alpha=0.9",
        "buffer.batch_size=7",
    )
    assert (config.optimizer.lr, config.model.alpha, config.model.beta) == (0.7, 0.9, 0.5)
    assert config.buffer.batch_size == 7


def test_override_wins_over_experiment() -> None:
    config = perdure.compose(
        "experiment=dark-experience/seq-mnist/derpp-500",
        "optimizer.lr=0.7",
        "model.alpha=0.9",
        "buffer.size=200",
        "dataset.epochs=3",
    )
    assert (config.optimizer.lr, config.model.alpha, config.model.beta) == (0.7, 0.9, 0.5)
    assert (config.buffer.size, config.dataset.epochs) == (200, 3)


def test_chosen_groups_win_over_experiment() -> None:
    config = perdure.compose(
        "dataset=seq-fmnist",
        "model=sgd",
        "experiment=dark-experience/seq-mnist/er-500",
        "training=joint",
    )
    assert (config.dataset.name, config.model.name) == ("seq-fmnist", "sgd")
    assert config.training.mode is Mode.joint
    assert config.optimizer.lr == 0.1


def test_recipe_can_be_left_out() -> None:
    config = perdure.compose("model=derpp", "dataset=perm-mnist", "~recipe")
    assert config.recipe.source is None
    assert (config.model.alpha, config.optimizer.lr) == (0.5, 0.03)


def test_unpublished_pair_keeps_the_defaults_and_says_so() -> None:
    config = perdure.compose("model=er", "dataset=seq-fmnist")
    assert config.recipe.source is None
    assert config.optimizer.lr == 0.03
    (notice,) = notices(config, [])
    assert "no published hyperparameters for er on seq-fmnist" in notice
