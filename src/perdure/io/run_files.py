"""The files of a run folder (`outputs/<timestamp>/`): the one place that knows their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RESULTS = "results.json"
METRICS = "metrics.jsonl"
SHEET = "metrics.csv"
TENSORBOARD = "tensorboard"
STATUS = "status.json"
SETTINGS = "config.json"
ACCURACY = "accuracy.csv"
FIGURES = "figures"
ACCURACY_PICTURE = f"{FIGURES}/accuracy_matrix.png"
REPORT = "report.html"
LOG = "train.log"
CONSOLE = "console.log"
LOCK = ".lock"
HYDRA = ".hydra"
CHECKPOINTS = "checkpoints"
CODE = "code"
WANDB = "wandb.json"
RAW_RECORDS = "records"
RAW_ROWS = "evaluations.jsonl"  # below records
CONFIG = "config.yaml"  # below .hydra
OVERRIDES = "overrides.yaml"  # below .hydra
TYPED = "typed.yaml"  # below .hydra
RESULTS_LIMIT = 64 * 2**20
"""Bytes of results.json that are read; hundreds of tasks take megabytes."""


@dataclass(frozen=True)
class RunFiles:
    """Paths below the run folder `path`; none of them need be there."""

    path: Path

    @property
    def results(self) -> Path:
        """What the run measured, and how it stands."""
        return self.path / RESULTS

    @property
    def metrics(self) -> Path:
        """One JSON object a line, as the run goes."""
        return self.path / METRICS

    @property
    def sheet(self) -> Path:
        """The rows of metrics.jsonl as a table, a line a value."""
        return self.path / SHEET

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard."""
        return self.path / TENSORBOARD

    @property
    def status(self) -> Path:
        """How the run's last process ended."""
        return self.path / STATUS

    @property
    def settings(self) -> Path:
        """The configuration that ran, resolved: what a command that resumes is compared with."""
        return self.path / SETTINGS

    @property
    def raw_records(self) -> Path:
        """What evaluations recorded: predictions, and counts by class."""
        return self.path / RAW_RECORDS

    @property
    def raw_rows(self) -> Path:
        """One JSON object a line, as the run evaluates and probes."""
        return self.raw_records / RAW_ROWS

    def raw_examples(self, task: int) -> Path:
        """Predictions at the end of `task`, as NumPy arrays."""
        return self.raw_records / f"task-{task}.npz"

    @property
    def accuracy(self) -> Path:
        """The accuracy matrix as a table."""
        return self.path / ACCURACY

    @property
    def figures(self) -> Path:
        """Drawings of what the run measured."""
        return self.path / FIGURES

    @property
    def accuracy_picture(self) -> Path:
        """The accuracy matrix as a heatmap."""
        return self.path / ACCURACY_PICTURE

    @property
    def report(self) -> Path:
        """The run on one page."""
        return self.path / REPORT

    @property
    def log(self) -> Path:
        """What the program logged."""
        return self.path / LOG

    @property
    def console(self) -> Path:
        """The output of a sweep's job that ran in a process of its own."""
        return self.path / CONSOLE

    @property
    def lock(self) -> Path:
        """Held by the process that writes in the folder."""
        return self.path / LOCK

    @property
    def hydra(self) -> Path:
        """The configuration as composed, and the overrides as typed."""
        return self.path / HYDRA

    @property
    def config(self) -> Path:
        """The configuration with which the run was started."""
        return self.hydra / CONFIG

    @property
    def overrides(self) -> Path:
        """The overrides with which the run was started."""
        return self.hydra / OVERRIDES

    @property
    def typed(self) -> Path:
        """Of a fork: what was typed of its overrides; the others are its checkpoint's."""
        return self.hydra / TYPED

    @property
    def typed_overrides(self) -> Path:
        """The file that has what was typed to start the run."""
        return self.typed if self.typed.is_file() else self.overrides

    @property
    def checkpoints(self) -> Path:
        """Checkpoints with their sidecars."""
        return self.path / CHECKPOINTS

    @property
    def code(self) -> Path:
        """The code that ran."""
        return self.path / CODE

    @property
    def wandb(self) -> Path:
        """Which run of Weights & Biases mirrors the folder, and what it has been sent."""
        return self.path / WANDB
