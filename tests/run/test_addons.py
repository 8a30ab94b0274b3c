"""The group `addon`: what is composed, refused, named, stored, resumed, forked and published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import perdure
from perdure.checkpoint.core.migrate import migrated
from perdure.config.method_name import method_name, options_of
from perdure.config.published import experiment, published
from perdure.config.recipe import notices
from perdure.config.schema import Config
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.models.derpp import DERpp
from perdure.models.star import Star
from perdure.run.assemble import make_benchmark, make_method
from perdure.run.method_checks import check_method, method_class

QUIET = ("tracking.console=off", "threads=1")
SMALL = ("model=derpp", "buffer.size=50", "dataset.iterations=5", "recipe=none", *QUIET)


def config_of(*overrides: str) -> Config:
    composed = perdure.compose(*overrides)
    validate(composed)
    return typed(composed)


def test_the_class_is_of_both_and_its_options_come_from_both_groups() -> None:
    config = config_of("model=derpp", "model.alpha=0.25", "addon=star", "addon.strength=0.5")
    kind = method_class(config)
    assert issubclass(kind, DERpp)
    assert issubclass(kind, Star)
    benchmark = make_benchmark(config, torch.device("cpu"))
    method: Any = make_method(config, benchmark, torch.device("cpu"))
    assert (method.alpha, method.strength, method.replays) == (0.25, 0.5, 3)
    assert method_class(config_of("model=derpp")) is DERpp


def test_its_name_has_both() -> None:
    composed = perdure.compose("model=derpp", "addon=star")
    assert method_name(composed) == method_name(typed(composed)) == "derpp+star"
    assert method_name(perdure.compose("model=derpp")) == "derpp"
    assert method_name(OmegaConf.create({"model": {"name": "er"}})) == "er"
    assert options_of("derpp+star") == {"model": "derpp", "addon": "star"}
    assert options_of("er-ace") == {"model": "er-ace"}


@pytest.mark.parametrize("addon", ["star", "lider"])
@pytest.mark.parametrize("model", ["sgd", "icarl", "gdumb", "lwf"])
def test_a_method_that_draws_nothing_is_refused(model: str, addon: str) -> None:
    config = config_of(f"model={model}", f"addon={addon}")
    with pytest.raises(UserError, match=rf"^addon={addon} with model={model}: {model} draws"):
        check_method(config)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["addon._target_=perdure.models.er.ER", "addon.name=x"], "perdure.models.addon.AddOn"),
        (["addon=star", "+addon.gamma=1"], "addon.gamma=1: addon takes strength, perturbation"),
        (["addon=star", "+model.gamma=1"], "model.gamma=1: model takes alpha, beta"),
        (["addon=star", "addon.strength=much"], "addon.strength=much: must be a float"),
        (["addon=star", "model.alpha=much"], "model.alpha=much: must be a float"),
        (["addon=lider"], "MLP has maps without positions"),
        (["addon._target_=mylab.Mine"], "addon.name=None: is a part of file names"),
        (["addon=star", "addon.name=a/b"], "addon.name=a/b: is a part of file names"),
        (["addon=star", "training.shards=2"], "DERppStar is not a mean over examples"),
        (
            ["addon=star", "buffer=none", "buffer.size=0"],
            "model=derpp with buffer=none: derpp.star replays",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        perdure.train(*SMALL, *overrides)


@pytest.mark.process
def test_a_run_is_named_and_resumed_and_its_method_may_change_at_a_fork(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = (*SMALL, "addon=star", "addon.strength=0.2", "checkpoint.save=true")
    results = perdure.train(*words, "dataset.stop_after=3", folder=whole)
    perdure.train(*words, "dataset.stop_after=2", folder=part)
    assert json.loads((whole / "results.json").read_text())["model"] == "derpp+star"
    assert sorted(p.name[:25] for p in (part / "checkpoints").glob("*.pt")) == 2 * [
        "derpp+star_seq-mnist_50_1"
    ]
    resumed = perdure.train(
        f"checkpoint.load={part}", "dataset.stop_after=3", "checkpoint.save=true", *QUIET[:1],
        folder=part,
    )  # fmt: skip
    assert resumed["accuracy_matrix"] == results["accuracy_matrix"]
    ends = [
        torch.load(next((run / "checkpoints").glob("*_2.pt")), weights_only=True)["model"]
        for run in (whole, part)
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    fork = (f"checkpoint.load={part}", "checkpoint.fork=true", "dataset.stop_after=4", *QUIET)
    without = perdure.train(*fork, "addon=none", folder=tmp_path / "fork")
    assert without["model"] == "derpp"
    assert without["tasks_done"] == 4


def test_a_configuration_from_before_the_group_has_none() -> None:
    content: Any = {"args": {"model": {"name": "er"}, "backbone": {}}}
    assert migrated(content)["args"]["addon"] == {"_target_": None, "name": None}
    assert "addon" not in migrated({"args": {"model": {"name": "er"}}})["args"]


# --- published settings ---------------------------------------------------------------------------

ROW = "dark-experience/seq-mnist/derpp-500"


def test_a_row_of_the_method_alone_is_not_for_the_method_with_an_add_on() -> None:
    same = (f"experiment={ROW}", "recipe=auto")
    assert published.choose(perdure.compose(*same)).setting.name == ROW  # type: ignore[union-attr]
    choice = published.choose(perdure.compose(*same, "addon=star"))
    assert choice.setting is None
    assert choice.reason.startswith("none is known for derpp+star on seq-mnist")
    with pytest.raises(UserError, match=r"model=derpp\+star with experiment=.*: must be derpp;"):
        notices(perdure.compose(f"experiment={ROW}", "addon=star"))


def test_an_experiment_of_a_method_with_an_add_on_chooses_both() -> None:
    name = "mammoth/seq-cifar10/er+star-100"
    node = experiment(published.settings[name])
    assert {"override /model": "er"} in node["defaults"]
    assert {"override /addon": "star"} in node["defaults"]
    config = perdure.compose(f"experiment={name}")
    assert method_name(config) == "er+star"
    assert (config.addon.perturbation, config.addon.strength, config.optimizer.lr) == (
        0.01, 0.1, 0.1,
    )  # fmt: skip


def test_only_rows_whose_add_on_exists_can_be_run() -> None:
    rows = published.settings
    assert published.is_runnable(rows["mammoth/seq-cifar10/derpp+star-100"])
    assert published.is_runnable(rows["mammoth/seq-cifar100/er-ace+lider-500"])
    assert not published.is_runnable(rows["mammoth/seq-cifar10/xder-rpc+star-100"])
