"""The files of a run folder (`outputs/<timestamp>/`): the one place that knows their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFiles:
    """Paths below the run folder `path`; none of them need be there."""

    path: Path

    @property
    def results(self) -> Path:
        """What the run measured, and how it stands."""
        return self.path / "results.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line, as the run goes."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """How the run's last process ended."""
        return self.path / "status.json"

    @property
    def accuracy(self) -> Path:
        """The accuracy matrix as a table."""
        return self.path / "accuracy.csv"

    @property
    def accuracy_picture(self) -> Path:
        """The accuracy matrix as a heatmap."""
        return self.path / "accuracy_matrix.png"

    @property
    def report(self) -> Path:
        """The run on one page."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What the program logged."""
        return self.path / "train.log"

    @property
    def console(self) -> Path:
        """The output of a sweep's job that ran in a process of its own."""
        return self.path / "console.log"

    @property
    def lock(self) -> Path:
        """Held by the process that writes in the folder."""
        return self.path / ".lock"

    @property
    def hydra(self) -> Path:
        """The configuration as composed, and the overrides as typed."""
        return self.path / ".hydra"

    @property
    def config(self) -> Path:
        """The configuration with which the run was started."""
        return self.hydra / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides with which the run was started."""
        return self.hydra / "overrides.yaml"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints with their sidecars."""
        return self.path / "checkpoints"

    @property
    def code(self) -> Path:
        """The code that ran."""
        return self.path / "code"

    @property
    def wandb(self) -> Path:
        """Which run of Weights & Biases mirrors the folder, and what it has been sent."""
        return self.path / "wandb.json"
