"""`debug=fast`, and a machine's own settings: what they change, and what wins over them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from process import ROOT, train_in

import perdure
from perdure.config.folder import options
from perdure.config.loading import loading
from perdure.config.overrides import Arguments
from perdure.config.validation import validate

LOCAL = """\
# @package _global_
defaults:
  - override /tracking: wandb
data:
  root: /scratch/data
output_root: /scratch/outputs
dataset:
  epochs: 7
"""


@pytest.fixture
def machine(tmp_path: Path) -> str:
    """A folder of configuration files with the settings of a machine; as an override."""
    for name, text in (("default", LOCAL), ("other", LOCAL.replace("scratch", "big"))):
        path = tmp_path / "conf" / "local" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return f"hydra.searchpath=['file://{tmp_path / 'conf'}']"


def test_a_machine_s_settings_are_applied_where_they_are(machine: str) -> None:
    config = perdure.compose(machine, "dataset=seq-fmnist")
    validate(config)
    assert (config.data.root, config.output_root) == ("/scratch/data", "/scratch/outputs")
    assert config.tracking.wandb is not None
    assert perdure.compose(machine, "local=other").data.root == "/big/data"
    assert perdure.compose(machine, "~local").data.root == perdure.compose().data.root


def test_experiments_and_what_is_typed_win_over_a_machine_s_settings(machine: str) -> None:
    assert perdure.compose(machine).dataset.epochs == 7
    config = perdure.compose(machine, "experiment=dark-experience/seq-mnist/er-500")
    assert config.dataset.epochs == 1
    config = perdure.compose(machine, "data.root=here", "tracking=local")
    assert (config.data.root, config.tracking.wandb) == ("here", None)


def test_the_run_that_saved_last_is_looked_for_where_runs_go(machine: str) -> None:
    def root(*words: str) -> str:
        return str(loading(Arguments(words)).output_root)

    assert root("checkpoint.load=latest") == "outputs"
    assert root(machine, "checkpoint.load=latest") == "/scratch/outputs"
    assert root(machine, "checkpoint.load=latest", "local=other") == "/big/outputs"
    assert root(machine, "checkpoint.load=latest", "debug=fast") == "outputs/debug"
    assert root(machine, "checkpoint.load=latest", "output_root=here") == "here"


@pytest.mark.process
def test_git_ignores_a_machine_s_settings() -> None:
    asked = ["git", "check-ignore", "conf/local/default.yaml"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 128:
        pytest.skip("the code is no git repository here")
    assert done.returncode == 0


@pytest.mark.parametrize("training", options("training"))
@pytest.mark.parametrize("dataset", options("dataset"))
def test_debug_is_two_short_tasks_of_any_benchmark(dataset: str, training: str) -> None:
    config = perdure.compose(f"dataset={dataset}", f"training={training}", "debug=fast")
    validate(config)
    tasks = min(2, perdure.compose(f"dataset={dataset}").dataset.n_tasks)  # a stream is one
    assert (config.dataset.n_tasks, config.dataset.iterations) == (tasks, 10)
    assert config.dataset.validation == 0.01
    assert not config.checkpoint.save


def test_debug_wins_over_files_and_not_over_what_is_typed(machine: str) -> None:
    config = perdure.compose(machine, "debug=fast", "checkpoint.name=mine-", "dataset.n_tasks=5")
    assert (config.output_root, config.checkpoint.name) == ("outputs/debug", "mine-")
    assert (config.dataset.n_tasks, config.dataset.iterations) == (5, 10)


@pytest.mark.process
def test_a_debug_run_is_marked_and_keeps_no_checkpoint(tmp_path: Path, machine: str) -> None:
    flag = f"--config-dir={tmp_path / 'conf'}"
    done = train_in(tmp_path, flag, "debug=fast", "tracking=local", "model=derpp")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "debug").iterdir()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["debug"]
    assert (folder / "results.json").is_file()
    assert not list(folder.glob("checkpoints/*.p*"))
    assert "root: /scratch/data" in (folder / ".hydra" / "config.yaml").read_text()
