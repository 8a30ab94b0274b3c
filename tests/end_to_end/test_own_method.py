"""A method of a user's own with phases, growth and task-end storage: killed, resumed, the same."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import ROOT, command, environment, train_in

from perdure.checkpoint.core.ledger import Entry, entries

METHOD = """\
import torch
from torch import nn

from perdure.models.base import Method, StepOutput
from perdure.models.phase import Phase


class Staged(Method):
    '''Distills what it stored, then tunes an expert of the task on the memory.'''

    replays = 1
    stored_fields = ("logits",)
    store_at = "task"
    joint = False

    def __init__(self, backbone, epochs):
        super().__init__(backbone)
        self.epochs = epochs
        self.experts = nn.ModuleList()
        self.register_buffer("trained", torch.zeros(backbone.n_classes, dtype=torch.int64))

    def grow(self, task):
        self.experts.append(nn.Linear(self.backbone.n_features, self.backbone.n_classes))

    def phases(self, task):
        return (
            Phase(data="task+memory"),
            Phase(
                "tune", "memory", self.epochs, 5, {"lr": 0.01, "momentum": 0.9},
                class_balanced=True, after_storing=True,
            ),
        )

    def forward(self, x):
        features = self.backbone.features(x)
        return self.backbone.head(features) + sum(expert(features) for expert in self.experts)

    def loss(self, batch, *replay):
        logits = self(batch.x)
        noise = 0.01 * torch.randn_like(logits)
        return StepOutput(batch.cross_entropy(logits + noise), rows={"y": batch.y})

    def after_step(self, rows, sums):
        self.trained += torch.bincount(rows["y"], minlength=len(self.trained))

    def annotate(self, batch):
        return {"logits": self(batch.x)}

    def after_task(self, data, memory):
        for batch in memory.batches(50):
            memory.rewrite(batch["index"], {"logits": 0.5 * batch["logits"]})
"""
OPTION = """\
defaults:
  - _self_
  - override /buffer@_global_.buffer: herding

_target_: own.method.Staged
name: staged
# Passes over the memory after each task.
epochs: 40
"""
RUN = (
    "--config-dir=ownconf", "model=staged", "buffer.size=60", "dataset.iterations=40",
    "dataset.n_tasks=3", "dataset.class_order=[0,1,2,3,4,5,6,7,8,9]", "training.log_every=20",
    "checkpoint.save=true", "checkpoint.resume=auto", "tracking.console=off",
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the commands are given: the module and the option are nowhere else."""
    for name, text in (("own/method.py", METHOD), ("ownconf/model/staged.yaml", OPTION)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def newest(run: Path) -> Entry | None:
    found = [entry for entry in entries(run / "checkpoints") if entry.full]
    return found[-1] if found else None


def test_killed_within_a_phase_it_ends_alike(here: Path) -> None:
    calm = train_in(here, *RUN, "hydra.run.dir=calm")
    assert calm.returncode == 0, calm.stderr
    often = (*RUN, "hydra.run.dir=run", "checkpoint.every=20 steps")
    process = subprocess.Popen(
        command(*often),
        cwd=here,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        entry = newest(here / "run")
        if entry is not None and entry.at[0] == 1 and entry.at[1] > 3:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    stopped = newest(here / "run")
    assert stopped is not None
    assert stopped.at[0] >= 1
    assert stopped.at[1] > 1, "within the second phase, whose epochs follow the first one's"
    again = train_in(here, *often)
    assert again.returncode == 0, again.stderr
    (resumed,) = json.loads((here / "run" / "results.json").read_text())["resumes"]
    assert stopped.path.name in resumed["from"], "from the last one, in the second phase"
    assert not list((here / "run" / "checkpoints").glob("*.damaged*"))
    compared = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compare_ends.py"), "run", "calm"],
        cwd=here,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
