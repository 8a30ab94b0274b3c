"""A run that is killed (SIGKILL) at random instants and started anew: what the crash test runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.checkpoint.core.ledger import entries, uncommitted
from perdure.io.atomic import is_temporary
from perdure.run.folder import RunFolder

ROOT = Path(__file__).parents[1]
PROJECT = "crash-test"
SETTING = (
    "dataset.iterations=60",
    "dataset.batch_size=10",
    "buffer.size=100",
    "training.log_every=7",
    "checkpoint.save=true",
    "checkpoint.every=3 steps",
    "checkpoint.resume=auto",
    "tracking.console=plain",
    "timestamp=20260101-000000",  # in the names of files, which are compared
)
BALANCED = "buffer=class-balanced"
PLACES = {"start-up": 2, "training": 3, "a write": 2, "the end": 3}
"""Where kills are aimed, and how often of ten."""


@dataclass(frozen=True)
class Case:
    """What is run: overrides, on how many processes, mirrored at W&B or not."""

    overrides: tuple[str, ...]
    ranks: int = 1
    is_mirrored: bool = False


CASES = {
    "sgd": Case(("model=sgd",)),
    "er": Case(("model=er",)),
    "er-wandb": Case(("model=er", "tracking=wandb", f"tracking.wandb.project={PROJECT}"), 1, True),
    "er-ace": Case(("model=er-ace", BALANCED)),
    "der": Case(("model=der",)),
    "derpp": Case(("model=derpp", BALANCED)),
    "derpp-2-ranks": Case(("model=derpp", "training.shards=2"), 2),
    "agem": Case(("model=agem", BALANCED)),
    "ewc-online": Case(("model=ewc-online",)),
    "si": Case(("model=si",)),
    "lwf": Case(("model=lwf",)),
    "gem": Case(("model=gem",)),
    "mir": Case(("model=mir", "model.candidates=30")),
    "mer": Case(("model=mer",)),
    "scr": Case(("model=scr", "model.replayed=20")),
    "slda": Case(("model=slda", "model.base_epochs=1")),
    "hat": Case(("model=hat",)),
    "icarl": Case(("model=icarl",)),
    "lucir": Case(("model=lucir", "model.finetune_epochs=2")),
    "bic": Case(("model=bic", "model.bias_epochs=4", "model.held_out=0.3")),
    "gdumb": Case(("model=gdumb", "model.epochs=3")),
    "wa": Case(("model=wa",)),
    "rpc": Case(("model=rpc",)),
    "lwf-mc": Case(("model=lwf-mc",)),
    "podnet": Case(("model=podnet", "model.finetune_epochs=2")),
    "xder": Case(("model=xder", "model.simclr_num_aug=2")),
    "ewc": Case(("model=ewc",)),
    "mas": Case(("model=mas",)),
    "rwalk": Case(("model=rwalk", "model.window=7")),
    "packnet": Case(("model=packnet", "model.retrain_epochs=2")),
    "pnn": Case(("model=pnn",)),
    "agem-r": Case(("model=agem-r",)),
    "fdr": Case(("model=fdr",)),
    "hal": Case(("model=hal", "model.anchor_steps=5")),
    "er-aml": Case(("model=er-aml",)),
    "ncm": Case(("model=ncm", "model.base_epochs=1")),
    "ranpac": Case(("model=ranpac", "model.projection=50")),
    "acil": Case(("model=acil", "model.projection=50")),
    "ds-al": Case(("model=ds-al", "model.projection=50")),
    "fecam": Case(("model=fecam",)),
    "fetril": Case(("model=fetril", "model.base_epochs=1")),
    "randumb": Case(("model=randumb", "model.embedding=50")),
    "gss": Case(("model=gss",)),
    "er-tricks": Case(("model=er-tricks", "model.correction_epochs=2", "optimizer.momentum=0")),
    "derpp+star": Case(("model=derpp", "addon=star")),
    "er-ace+lider": Case(
        ("model=er-ace", "addon=lider", "backbone=small-conv", "backbone.width=4")
    ),
    "cumulative": Case(("model=cumulative",)),
    "from-scratch": Case(("model=from-scratch",)),
    "independent": Case(("model=independent",)),
    "frozen-backbone": Case(("model=frozen-backbone",)),
}


@dataclass
class Run:
    """A run in `folder`, whose processes are started, killed and waited for.

    Attributes:
        environment: of its processes, beyond this one's.
        chance: chooses the number of processes of each start, and when they are killed.
    """

    case: Case
    folder: Path
    environment: dict[str, str]
    chance: random.Random

    def start(self) -> subprocess.Popen[bytes]:
        """Start it on one process, or on as many as the case has, or one of these two."""
        ranks = self.chance.choice((self.case.ranks, self.case.ranks, 1))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        place = f"hydra.run.dir={self.folder}"
        words = [*(launcher if ranks > 1 else []), str(ROOT / "train.py")]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words, *self.case.overrides, *SETTING, place],
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=self.case.ranks > 1,
            )

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def finish(self) -> list[str]:
        """Run to the end; what is wrong if it does not come."""
        status = self.start().wait()
        last = self.log.read_text(errors="replace").splitlines()[-1:]
        return [] if status == 0 else [f"a process ended with status {status}: {''.join(last)}"]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the process; of several to all, as a machine dies, or to one."""
        ranks = children(process.pid) if self.case.ranks > 1 else []
        if ranks and self.chance.random() < 0.5:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(self.chance.choice(ranks), signal.SIGKILL)  # torchrun ends the others
        elif ranks:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()

    def kill_at(self, place: str, window: float) -> dict[str, Any]:
        """Start it, kill it at a random instant about `place`, and return where that was.

        Args:
            place: a key of PLACES.
            window: seconds that the work after "finished" takes.
        """
        before = Seen(self)
        reached, longest = {
            "start-up": (lambda: True, 3.0),
            "training": (before.has_commit, 0.7),
            "a write": (lambda: before.has_commit() and bool(self.torn()), 0.0),
            "the end": (before.has_end, window),
        }[place]
        process = self.start()
        delay, deadline = self.chance.uniform(0, longest), float("inf")
        while process.poll() is None and time.monotonic() < deadline:
            if deadline == float("inf") and reached():
                deadline = time.monotonic() + delay
            time.sleep(0.003)
        killed = process.poll() is None
        if killed:
            self.kill(process)
        return {"killed": killed, **before.what_came()}

    def committed(self) -> set[str]:
        """The names of the sidecars: they change with each commit."""
        return {path.name for path in (self.folder / "checkpoints").glob("*.json")}

    @property
    def ended(self) -> int | None:
        """When results.json came to say "finished"; None while it does not."""
        folder = RunFolder(self.folder)
        if folder.run_status != "finished":
            return None
        return folder.results.stat().st_mtime_ns

    def torn(self) -> list[Path]:
        """Temporary files, and data files without a sidecar, among the checkpoints."""
        checkpoints = self.folder / "checkpoints"
        files = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
        return [path for path in files if is_temporary(path)] + uncommitted(checkpoints)


class Seen:
    """What was in the folder of `run` before a process of it started."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.committed, self.ended, self.torn = run.committed(), run.ended, set(run.torn())

    def has_commit(self) -> bool:
        """Whether a checkpoint has come or gone since."""
        return self.run.committed() != self.committed

    def has_end(self) -> bool:
        """Whether results.json says "finished" since."""
        return self.run.ended not in (None, self.ended)

    def what_came(self) -> dict[str, Any]:
        """Where the process was when it was killed."""
        torn = bool(set(self.run.torn()) - self.torn)
        newest = [e for e in entries(self.run.folder / "checkpoints") if e.full][-1:]
        if self.has_end():
            place = "the end"
        elif not self.has_commit():
            place = "start-up"
        else:
            place = "a write" if torn else "training"
        return {
            "place": place,
            "in_a_write": torn,
            "mid_epoch": bool(newest) and newest[0].order[3] > 0,
            "global_step": newest[0].order[0] if newest else 0,
        }


def children(process: int) -> list[int]:
    """The processes that this one has started, where the system tells."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return list(map(int, path.read_text().split())) if path.exists() else []
