"""Another class through `_target_`: what the group's file sets for its own class is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import perdure
from perdure.errors import UserError
from perdure.run.target_overrides import drop_unaccepted_options

SCALE = "perdure.datasets.transforms.Scale"
TINY = ("model=sgd", "dataset.iterations=3", "dataset.stop_after=2", "tracking.console=off")


@pytest.mark.parametrize(
    ("group", "typed", "left_out"),
    [
        ("optimizer", ["optimizer._target_=torch.optim.RMSprop"], ["nesterov"]),
        ("optimizer", ["optimizer._target_=torch.optim.Adagrad"], ["momentum", "nesterov"]),
        ("optimizer", ["optimizer._target_=torch.optim.SGD"], []),
        (
            "scheduler",
            ["scheduler=multistep", "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR"],
            ["milestones"],
        ),
        ("model", ["model=derpp", "model._target_=perdure.models.er.ER"], ["alpha", "beta"]),
        (
            "backbone",
            ["backbone=mlp", "backbone._target_=perdure.backbones.resnet.ResNet18"],
            ["hidden"],
        ),
        (
            "dataset.transform",
            ["transform=crop-flip-cifar10", f"dataset.transform._target_={SCALE}"],
            ["padding", "flip"],
        ),
    ],
    ids=["rmsprop", "adagrad", "sgd", "scheduler", "model", "backbone", "transform"],
)
def test_options_of_the_former_class_are_left_out(
    group: str, typed: list[str], left_out: list[str]
) -> None:
    before = perdure.compose(*typed)
    after, sentences = drop_unaccepted_options(before, typed)
    gone = {*OmegaConf.select(before, group)} - {*OmegaConf.select(after, group)}
    assert gone == set(left_out)
    assert len(sentences) == bool(left_out)
    assert all(f"{group}.{key}" in sentences[0] for key in left_out)


def test_what_was_typed_stays_and_is_refused() -> None:
    typed = ["optimizer._target_=torch.optim.Adagrad", "optimizer.momentum=0.9"]
    config, (told,) = drop_unaccepted_options(perdure.compose(*typed), typed)
    assert config.optimizer.momentum == 0.9
    assert told == "torch.optim.Adagrad does not take optimizer.nesterov: left out"
    with pytest.raises(UserError, match=r"optimizer\.momentum=0\.9: optimizer takes lr, "):
        perdure.train(*TINY, *typed)


def test_a_class_of_the_groups_own_keeps_all() -> None:
    config = perdure.compose("model=derpp")
    assert drop_unaccepted_options(config, ["model=derpp"]) == (config, [])


@pytest.mark.process
def test_such_a_run_is_resumed(tmp_path: Path) -> None:
    typed = (*TINY, "optimizer._target_=torch.optim.RMSprop", "optimizer.lr=0.001")
    whole = perdure.train(*typed, "checkpoint.save=true", folder=tmp_path / "whole")
    first = (*typed, "checkpoint.save=true", "dataset.stop_after=1")
    perdure.train(*first, folder=tmp_path / "run")
    load = f"checkpoint.load={tmp_path / 'run'}"
    resumed = perdure.train(load, "dataset.stop_after=2", "checkpoint.save=true")
    assert resumed["accuracy_matrix"] == whole["accuracy_matrix"]
