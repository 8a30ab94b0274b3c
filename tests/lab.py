"""A user's own method and benchmark, in modules and configuration files of their own."""

from __future__ import annotations

from pathlib import Path

from hydra import compose
from omegaconf import DictConfig

from perdure.config.compose import configuration
from perdure.config.overrides import Arguments

FILES = {
    "lab/__init__.py": "",
    "lab/scaling.py": "def scaled(loss, strength):\n    return strength * loss\n",
    "lab/method.py": """\
from lab.scaling import scaled
from perdure.models.er import ER


class Mine(ER):
    def __init__(self, backbone, strength: float = 1.0):
        super().__init__(backbone)
        self.strength = strength

    def loss(self, batch, *replay):
        return scaled(super().loss(batch, *replay), self.strength)
""",
    "lab/data.py": (
        "from perdure.datasets.sources import MNIST\n\n\nclass Digits(MNIST):\n"
        '    """The same."""\n'
    ),
    "lab/unused.py": "",
    "labconf/__init__.py": "",
    "labconf/model/mine.yaml": ("_target_: lab.method.Mine\nname: mine\nstrength: 0.5\n"),
    "labconf/dataset/mine.yaml": """\
# @package _global_
defaults:
  - base
  - _self_
  - override /source: mnist
  - override /scenario: class-incremental
  - override /transform: scale
  - override /backbone: mlp
dataset:
  name: mine
  n_tasks: 5
  batch_size: 10
  source:
    _target_: lab.data.Digits
""",
}
MODULES = {"lab/__init__.py", "lab/scaling.py", "lab/method.py", "lab/data.py"}
"""Those that a run of the method on the benchmark imports."""
TINY = ("dataset.iterations=4", "dataset.stop_after=1", "tracking.console=off")
MINE = ("model=mine", "dataset=mine", *TINY)


def make_lab(folder: Path) -> Path:
    """Write the files below `folder`; returns the folder of configuration files."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "labconf"


def modules_of(run: Path) -> set[str]:
    """The user's modules that the run in this folder has kept."""
    code = run / "code" / "modules"
    return {str(path.relative_to(code)) for path in code.rglob("*.py")}


def composed(*words: str) -> DictConfig:
    """What a command composes, Hydra's own part with it."""
    command = Arguments(words)
    overrides = [*command.search_path, *(t.text for t in command.overrides), "timestamp=now"]
    with configuration(command.config_folders):
        return compose("train", overrides=overrides, return_hydra_config=True)
