"""Benchmarks are composed of source, scenario and transform, typed or chosen or set by a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import perdure
from perdure.config.benchmark import PARTS
from perdure.config.folder import CONF, SHARED, options
from perdure.config.validation import validate
from perdure.errors import UserError

CLASSES = {
    "source": ("fashion-mnist", "perdure.datasets.sources.FashionMNIST"),
    "scenario": ("rotated", "perdure.datasets.scenarios.Rotated"),
    "transform": ("crop-flip-cifar10", "perdure.datasets.transforms.CropFlip"),
}
INLINED = """\
# @package _global_
defaults:
  - _self_
  - override /backbone: mlp
dataset:
  name: mine
  source:
    _target_: mylab.data.Faces
  scenario:
    _target_: perdure.datasets.scenarios.Rotated
  transform:
    _target_: perdure.datasets.transforms.CropFlip
    padding: 2
  n_tasks: 3
  batch_size: 8
  seed: ${seed}
"""
COMPOSED = """\
# @package _global_
defaults:
  - base
  - _self_
  - override /source: faces
  - override /scenario: class-incremental
  - override /transform: crop-flip-cifar10
dataset:
  name: mine
  transform:
    padding: 2
  n_tasks: 3
  batch_size: 8
"""
FACES = "# @package dataset.source\n_target_: mylab.data.Faces\n"


def folder(root: Path, **files: str) -> str:
    """A folder of configuration files, `group__option=text`; as an override."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"hydra.searchpath=['file://{root}']"


def dataset(*overrides: str) -> dict[str, Any]:
    config = perdure.compose(*overrides)
    validate(config)
    found: Any = OmegaConf.to_container(config.dataset)
    return dict(found)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("order", [1, -1], ids=["after", "before"])
def test_a_part_that_is_typed_wins_over_the_benchmark_s(part: str, order: int) -> None:
    option, target = CLASSES[part]
    typed = ["dataset=perm-mnist", f"{part}={option}"][::order]
    node = dataset(*typed)
    assert node[part]["_target_"] == target
    before = dataset("dataset=perm-mnist")
    assert {key for key in node if node[key] != before[key]} == {part}


def test_a_part_that_is_typed_wins_over_an_experiment_s_benchmark() -> None:
    node = dataset("experiment=dark-experience/seq-mnist/er-500", "scenario=rotated")
    assert node["scenario"]["_target_"].endswith("Rotated")


def test_every_benchmark_has_the_keys_of_base_and_the_comments_stand_there_alone() -> None:
    shared = OmegaConf.load(CONF / "dataset" / f"{SHARED}.yaml")
    for name in options("dataset"):
        assert dataset(f"dataset={name}").keys() == {"name", *PARTS, *map(str, shared)}
        text = (CONF / "dataset" / f"{name}.yaml").read_text()
        assert text.count("#") == 2


def test_a_benchmark_may_set_its_parts_in_its_own_file(tmp_path: Path) -> None:
    node = dataset(folder(tmp_path, dataset__mine=INLINED), "dataset=mine")
    assert node["source"] == {"_target_": "mylab.data.Faces"}
    assert node["scenario"] == {"_target_": "perdure.datasets.scenarios.Rotated"}
    target = "perdure.datasets.transforms.CropFlip"
    assert node["transform"] == {"_target_": target, "padding": 2}


def test_a_benchmark_may_choose_an_option_and_change_a_value(tmp_path: Path) -> None:
    search = folder(tmp_path, dataset__mine=COMPOSED, source__faces=FACES)
    node = dataset(search, "dataset=mine")
    assert node["source"] == {"_target_": "mylab.data.Faces"}
    assert (node["transform"]["padding"], node["transform"]["flip"]) == (2, True)
    assert dataset(search, "source=faces")["source"] == {"_target_": "mylab.data.Faces"}


@pytest.mark.parametrize("part", PARTS)
def test_an_option_that_the_benchmark_s_file_would_undo_is_refused(
    tmp_path: Path, part: str
) -> None:
    search = folder(tmp_path, dataset__mine=INLINED)
    option = CLASSES[part][0]
    with pytest.raises(UserError, match=f"{part}={option}: the file of dataset=mine sets"):
        perdure.compose(search, "dataset=mine", f"{part}={option}")
    typed = f"dataset.{part}._target_=mylab.Other"
    assert dataset(search, "dataset=mine", typed)[part]["_target_"] == "mylab.Other"


def test_a_file_in_the_package_of_its_group_is_read_too(tmp_path: Path) -> None:
    text = "name: mine\nscenario: {_target_: mylab.Blurry}\nn_tasks: 3\nbatch_size: 8\nseed: 0\n"
    search = folder(tmp_path, dataset__mine=text)
    node = dataset(search, "dataset=mine", "source=mnist", "transform=scale")
    assert node["scenario"] == {"_target_": "mylab.Blurry"}
    with pytest.raises(UserError, match="scenario=rotated: the file of dataset=mine sets"):
        perdure.compose(search, "dataset=mine", "scenario=rotated")


@pytest.mark.parametrize("key", ["name", *PARTS, "n_tasks", "batch_size"])
def test_a_benchmark_that_lacks_a_key_is_refused(tmp_path: Path, key: str) -> None:
    node: Any = OmegaConf.create(INLINED)
    node.dataset.pop(key)
    text = "# @package _global_\n" + OmegaConf.to_yaml(node)
    with pytest.raises(UserError, match=f"^dataset.{key}: is not set"):
        dataset(folder(tmp_path, dataset__mine=text), "dataset=mine")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", ["mnist", 3, {"padding": 2}, None])
def test_a_part_that_names_no_class_is_refused(part: str, value: Any) -> None:
    config = perdure.compose("dataset=seq-mnist")
    config.dataset[part] = value
    with pytest.raises(UserError, match=rf"^dataset\.{part}=.*must name a class"):
        validate(config)


def test_what_all_share_is_no_benchmark() -> None:
    with pytest.raises(UserError, match=r"^dataset=base: .*; choose mnist-360, perm-mnist, rot-"):
        perdure.compose("dataset=base")
    assert SHARED not in options("dataset")
