"""Which folder holds a run, and which commands and checkpoints are that run's."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, open_dict

from perdure.config.compose import compose
from perdure.errors import UserError
from perdure.io.atomic import write_json
from perdure.io.run_files import RunFiles
from perdure.run.identity import configuration, is_used, recorded, require_of_run, require_place


def composed(*overrides: str) -> DictConfig:
    return compose("model=er", "timestamp=20260101-000000", *overrides)


def recorded_in(folder: Path, *overrides: str) -> None:
    write_json(RunFiles(folder).settings, configuration(composed(*overrides), overrides))


@pytest.mark.parametrize("name", [".hydra/config.yaml", "train.log", ".lock", "code/a.py", "notes"])
def test_what_is_there_before_training_makes_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".tmp-0123").touch()
    assert not is_used(tmp_path)
    require_place(tmp_path, composed(), [], resumes=False)


@pytest.mark.parametrize(
    "name", ["results.json", "metrics.jsonl", "config.json", "wandb.json", "checkpoints/er_0.pt"]
)
def test_a_folder_that_a_run_has_written_to_is_used(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert is_used(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint\.resume=auto.*another hydra\.run\.dir"):
        require_place(tmp_path, composed(), [], resumes=False)


@pytest.mark.parametrize(
    "overrides", [(), ("tracking.console=off",), ("training.log_every=7",), ("threads=1",)]
)
def test_a_run_is_resumed_with_its_own_configuration(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    recorded_in(tmp_path)
    require_place(tmp_path, composed(*overrides), overrides, resumes=True)


def test_a_record_from_before_there_were_heads_is_of_the_same_run(tmp_path: Path) -> None:
    record = configuration(composed(), [])
    del record["head"], record["training"]["loss_scope"]
    write_json(RunFiles(tmp_path).settings, record)
    require_place(tmp_path, composed(), [], resumes=True)
    for override in ("head=cosine", "head.growing=true", "training.loss_scope=seen"):
        with pytest.raises(UserError, match="made with another configuration"):
            require_place(tmp_path, composed(override), [override], resumes=True)


@pytest.mark.parametrize(
    "override", ["seed=1", "optimizer.lr=0.5", "buffer.size=7", "dataset.epochs=9", "model=derpp"]
)
def test_another_configuration_is_another_run(tmp_path: Path, override: str) -> None:
    recorded_in(tmp_path)
    with pytest.raises(UserError, match="made with another configuration"):
        require_place(tmp_path, composed(override), [override], resumes=True)


def test_the_configuration_of_hydra_itself_is_not_compared(tmp_path: Path) -> None:
    recorded_in(tmp_path)
    config = composed()
    with open_dict(config):
        config.hydra = {"run": {"dir": "elsewhere"}}
    require_place(tmp_path, config, [], resumes=True)
    assert "hydra" in config


def test_shards_that_the_start_has_settled_are_no_difference(tmp_path: Path) -> None:
    recorded_in(tmp_path, "training.shards=4")
    require_place(tmp_path, composed(), [], resumes=True)
    with pytest.raises(UserError, match=r"training\.shards=2 \(was 4\)"):
        require_place(tmp_path, composed("training.shards=2"), [], resumes=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_record_compares_nothing(tmp_path: Path, text: str) -> None:
    RunFiles(tmp_path).settings.write_text(text)
    assert recorded(tmp_path) is None
    require_place(tmp_path, composed("seed=5"), [], resumes=True)  # the checkpoint is compared


@pytest.mark.parametrize("override", ["seed=1", "timestamp=20260101-000001", "buffer.size=7"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, override: str) -> None:
    run = configuration(composed(), [])
    require_of_run(run, run, tmp_path)
    require_of_run(configuration(composed("training.log_every=3"), []), run, tmp_path)
    with pytest.raises(UserError, match="is of another run"):
        require_of_run(configuration(composed(override), []), run, tmp_path)


def test_a_run_of_before_a_key_of_the_benchmark_is_the_same_run(tmp_path: Path) -> None:
    """What the lack of a key that came later means is added to what was recorded."""
    content = configuration(composed(), ())
    for key in ("class_sizes", "initial_classes", "increment", "noise", "imbalance"):
        del content["dataset"][key]
    write_json(RunFiles(tmp_path).settings, content)
    require_place(tmp_path, composed(), [], resumes=True)
    typed = "dataset.increment=2"
    with pytest.raises(UserError, match=r"dataset\.increment=2 \(was None\)"):
        require_place(tmp_path, composed(typed), [typed], resumes=True)
