"""The composed configuration: every file composes, and what makes no sense is refused."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import perdure
from perdure.config.benchmark import PARTS
from perdure.config.build import locate
from perdure.config.folder import options
from perdure.config.validation import validate
from perdure.errors import UserError

GROUPS = (
    "model",
    "addon",
    "dataset",
    "source",
    "scenario",
    "transform",
    "buffer",
    "backbone",
    "head",
    "optimizer",
    "scheduler",
    "training",
    "tracking",
)
OPTIONS = [f"{group}={option}" for group in GROUPS for option in options(group)]


@pytest.mark.parametrize("choice", OPTIONS)
def test_every_option_composes_and_names_real_classes(choice: str) -> None:
    config = perdure.compose(
        choice, *(["model=sgd"] if choice in ("buffer=none", "training=joint") else [])
    )
    validate(config)
    group = choice.partition("=")[0]
    node = config.dataset if group in PARTS else config[group]
    for target in (node, *(node[k] for k in PARTS if k in node)):
        if target.get("_target_"):
            assert callable(locate(target["_target_"], group))


def test_a_benchmark_brings_its_backbone_and_the_user_may_choose_another() -> None:
    assert "ResNet18" in perdure.compose("dataset=seq-cifar10").backbone["_target_"]
    config = perdure.compose("dataset=seq-cifar10", "backbone=reduced-resnet18")
    assert "ReducedResNet18" in config.backbone["_target_"]
    assert "MultiStep" in perdure.compose("dataset=seq-cifar100").scheduler["_target_"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(["+model.needs_buffer=true"], "model.needs_buffer=True: the class", id="fact"),
        pytest.param(["+model.joint=false"], "model.joint=False: the class", id="fact-joint"),
        pytest.param(["buffer.size=-1"], "buffer.size=-1", id="negative-size"),
        pytest.param(["buffer.size=0"], "buffer.size=0", id="empty-buffer"),
        pytest.param(["buffer.batch_size=0"], "buffer.batch_size=0", id="replay-batch"),
        pytest.param(["dataset.batch_size=0"], "dataset.batch_size=0", id="batch"),
        pytest.param(["dataset.epochs=-2"], "dataset.epochs=-2", id="epochs"),
        pytest.param(["dataset.validation=1.0"], "dataset.validation=1.0", id="validation"),
        pytest.param(["dataset.stop_after=6"], "seq-mnist has 5 tasks", id="stop-after"),
        pytest.param(["dataset.class_order=any"], "dataset.class_order=any", id="class-order"),
        pytest.param(["training.clip_norm=0"], "training.clip_norm=0", id="clip"),
        pytest.param(["training.log_every=0"], "training.log_every=0", id="log-every"),
        pytest.param(["seed=-1"], "seed=-1: must be an integer, 0 or more", id="seed"),
        pytest.param(["dataset.seed=-1"], "dataset.seed=-1: must be an", id="dataset-seed"),
        pytest.param(["threads=0"], "threads=0", id="threads"),
        pytest.param(["checkpoint.name=a/b"], "checkpoint.name=a/b", id="name"),
        pytest.param(
            ["training=joint", "dataset.stop_after=2"], "has no tasks to stop after", id="joint"
        ),
        pytest.param(
            ["checkpoint.max_minutes=0"],
            "checkpoint.max_minutes=0.0: must be a float above 0",
            id="minutes",
        ),
        pytest.param(
            ["checkpoint.max_gigabytes=-1"],
            "checkpoint.max_gigabytes=-1.0: must be a float above 0",
            id="gigabytes",
        ),
        pytest.param(
            ["data.max_minutes=nan"], "data.max_minutes=nan: must be a float above 0", id="nan"
        ),
        pytest.param(
            ["data.max_minutes=inf"], "data.max_minutes=inf: must be a float above 0", id="inf"
        ),
        pytest.param(
            ["tracking=wandb", "tracking.wandb.finish_seconds=0"],
            "tracking.wandb.finish_seconds=0",
            id="wandb-seconds",
        ),
        pytest.param(
            ["tracking=wandb", "tracking.wandb.project=a/b"],
            "tracking.wandb.project=a/b: must not be empty or hold",
            id="wandb-project",
        ),
        pytest.param(
            ["tracking=wandb", "tracking.wandb.project=''"],
            "tracking.wandb.project=: must not be empty",
            id="wandb-no-project",
        ),
        pytest.param(
            ["tracking=wandb", "tracking.wandb.entity='my team'"],
            "tracking.wandb.entity=my team: must not be empty or hold",
            id="wandb-entity",
        ),
        pytest.param(
            ["tracking=wandb", "+tracking.wandb.typo=1"],
            "tracking.wandb.typo: there is no such key",
            id="wandb-added-key",
        ),
        pytest.param(
            ["tracking.wandb.project=cl"],
            "tracking.wandb.project=cl: there is no such key without tracking=wandb",
            id="wandb-key-alone",
        ),
        pytest.param(
            ["checkpoint.map=backbone"], "checkpoint.map=backbone: must be null, or name", id="map"
        ),
        pytest.param(
            ["checkpoint.map={enc: 3}"], "checkpoint.map={'enc': 3}: must be", id="map-number"
        ),
        pytest.param(["+typo=1"], "typo: there is no such key", id="added-key"),
        pytest.param(["+dataset.typo=1"], "dataset.typo: there is no such key", id="added-below"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(perdure.compose(*overrides))


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("tracking.wandb.mode=sometimes", id="mode"),
        pytest.param("tracking.wandb.on_error=ignore", id="on-error"),
        pytest.param("tracking.wandb.tags=one", id="tags"),
        pytest.param("tracking.wandb.finish_seconds=soon", id="seconds"),
        pytest.param("tracking.wandb.projekt=cl", id="unknown"),
    ],
)
def test_how_wandb_is_used_has_its_types(override: str) -> None:
    validate(perdure.compose("tracking=wandb"))
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)):
        validate(perdure.compose("tracking=wandb", override))


@pytest.mark.parametrize("word", ["offline", "disable", "raise"])
def test_what_a_failure_of_wandb_means_is_one_word(word: str) -> None:
    config = perdure.compose("tracking=wandb", f"tracking.wandb.on_error={word}")
    validate(config)
    plain = OmegaConf.to_container(config.tracking, enum_to_str=True)
    assert isinstance(plain, dict)
    assert plain["wandb"]["on_error"] == word


def test_nothing_is_mirrored_unless_it_is_wanted() -> None:
    assert perdure.compose().tracking.wandb is None
    assert perdure.compose("tracking=wandb").tracking.console is perdure.compose().tracking.console
