"""The training state, all of it: what a checkpoint holds, and the interface of what saves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.models.base import Method
from perdure.tracking.events import Recorder
from perdure.training import draws
from perdure.training.clock import Clock
from perdure.training.cost import CostLedger
from perdure.training.replay import Replicated
from perdure.training.results import PER_CLASS, Results


@dataclass
class Position:
    """Where training stands: the next step is `step` of `epoch` of `task`.

    Epochs are numbered through all phases of a task; `phase` is the number of the current one, and
    `phase_start` that of its first epoch.
    """

    task: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    phase: int = 0
    phase_start: int = 0

    @property
    def task_begins(self) -> bool:
        """Whether nothing of the task has been trained yet."""
        return self.epoch == 0 and self.step == 0

    def begin_task(self, task: int) -> None:
        """Move to the beginning of `task`."""
        self.task = task
        self.epoch = self.step = self.phase = self.phase_start = 0

    def begin_phase(self, phase: int) -> None:
        """Move to the beginning of a phase of the task; the one before is trained."""
        self.phase, self.phase_start, self.step = phase, self.epoch, 0

    @property
    def last_begun(self) -> int:
        """The last task of which something has been trained; -1 before any."""
        return self.task - 1 if self.task_begins else self.task

    def as_dict(self) -> dict[str, int]:
        """As checkpoints hold it; the phase is left out within the first one."""
        found = asdict(self)
        return found if self.phase else {k: found[k] for k in found if not k.startswith("phase")}


class LossMeter:
    """The mean loss since it was last read.

    A step only keeps its loss; they are summed, in float64 and in order, when somebody reads.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sum = 0.0
        self._steps = 0

    def add(self, loss: Tensor | None) -> None:
        """Take in one step's loss, [] and detached, if it had one; nothing waits."""
        if loss is not None:
            self._losses.append(loss)

    def total(self) -> float:
        """The sum since the last `read`; waits for the device."""
        if self._losses:
            self._steps += len(self._losses)
            # Not `sum`, which compensates from Python 3.12 on: it would see where reads cut.
            for loss in torch.stack(self._losses).tolist():
                self._sum += loss
            self._losses = []
        return self._sum

    def read(self) -> float | None:
        """The mean, and reset; None where no step had a loss. Waits for the device."""
        total = self.total()
        mean = total / self._steps if self._steps else None
        self._sum, self._steps = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, float]:
        return {"sum": self.total(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses, self._sum, self._steps = [], float(state["sum"]), state["steps"]


@dataclass
class TrainState:
    """All that must survive a crash; checkpoint and resume use this object alone."""

    method: Method
    optimizer: torch.optim.Optimizer
    scheduler: Any | None
    scaler: torch.amp.GradScaler | None
    replay: Replicated | None
    results: Results
    clock: Clock
    recorders: Sequence[Recorder]
    seed: int
    config: dict[str, Any]
    split: bool = False
    """Whether the network is in parts, one a rank; a checkpoint holds it whole."""
    position: Position = field(default_factory=Position)
    cost: CostLedger | None = None
    """What training costs; None counts nothing."""
    main: tuple[torch.optim.Optimizer, Any | None] | None = None
    """The main phase's optimizer and scheduler, while another phase has its own in their place."""

    def __post_init__(self) -> None:
        self.device = next(self.method.parameters()).device
        self.loss = LossMeter()
        self.logged: dict[str, LossMeter] = {}

    def log(self, values: Mapping[str, Tensor]) -> None:
        """Take in what a step logged, {name: []}; nothing waits."""
        for name, value in values.items():
            self.logged.setdefault(name, LossMeter()).add(value.detach())

    @property
    def buffer(self) -> Buffer | None:
        """The replay buffer; None for a method without replay."""
        return None if self.replay is None else self.replay.buffer

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite; waits for the device."""
        weights = self.method.trainable()
        if self.split or not weights:
            return all(bool(p.isfinite().all()) for p in weights)
        return bool(torch.stack([p.isfinite().all() for p in weights]).all())

    def summary(self) -> dict[str, Any]:
        """What results.json holds now."""
        position = self.position
        return self.results.summary(
            tasks_done=position.task,
            global_step=position.global_step,
            cost=None if self.cost is None else self.cost.summary(self.replay),
            **self.clock.totals(),
        )

    def use(self, optimizer: torch.optim.Optimizer, scheduler: Any | None) -> None:
        """Train a phase with an optimizer of its own, until `use_main`."""
        if self.main is None:
            self.main = (self.optimizer, self.scheduler)
        self.optimizer, self.scheduler = optimizer, scheduler

    def use_main(self) -> None:
        """Train with the main phase's optimizer again."""
        if self.main is not None:
            self.optimizer, self.scheduler = self.main
            self.main = None

    def state_dict(self) -> dict[str, Any]:
        """Everything, by the names that a full checkpoint gives it; all ranks must call it."""
        model, optimizer = dict(self.method.state_dict()), self.optimizer.state_dict()
        if self.split:
            from perdure.distributed.fsdp import whole

            model, optimizer = whole(model), whole(optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            **self._main_state(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "buffer": self.replay.state_dict() if self.replay is not None else None,
            "rng": {"seed": self.seed, "streams": "philox4x64", "draws": draws.VERSION},
            "position": self.position.as_dict(),
            "args": self.config,
            "results": {
                # What classes are taken for is in `measured`, in less space.
                "summary": {k: v for k, v in self.summary().items() if k not in PER_CLASS},
                "measured": self.results.state_dict(),
                "loss": self.loss.state_dict(),
                **self._logged_state(),
                "clock": self.clock.state_dict(),
                "cost": None if self.cost is None else self.cost.state_dict(),
                "recorders": {r.name: r.state_dict() for r in self.recorders},
            },
        }

    def _logged_state(self) -> dict[str, Any]:
        if not self.logged:
            return {}
        return {"logged": {name: meter.state_dict() for name, meter in self.logged.items()}}

    def _main_state(self) -> dict[str, Any]:
        if self.main is None:
            return {}
        optimizer, scheduler = self.main
        kept = {"optimizer": optimizer.state_dict(), "scheduler": None}
        if scheduler:
            kept["scheduler"] = scheduler.state_dict()
        return {"main_optimizer": kept}

    def _load_main(self, state: dict[str, Any]) -> None:
        if self.main is None:
            return
        optimizer, scheduler = self.main
        optimizer.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume exactly where `state_dict()` was taken.

        Raises:
            RuntimeError, KeyError, ValueError, TypeError: the state is another configuration's.
        """
        self.load_method(state["model"])
        self.position = Position(**state["position"])
        self.load_optimizer(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self._load_main(state.get("main_optimizer", {}))
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        if self.replay is not None:
            self.replay.load_state_dict(state["buffer"], self.device)
        self.load_results(state["results"])

    def load_method(self, state: dict[str, Any]) -> None:
        """The part "model" of a `state_dict()`; all ranks must call it."""
        if self.split:
            from perdure.distributed.fsdp import state_like

            state = state_like(state, self.method)
        self.method.load_state_dict(state)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """The part "optimizer" of a `state_dict()`; all ranks must call it."""
        if self.split:
            from perdure.distributed.fsdp import optimizer_state_like

            state = optimizer_state_like(state, self.optimizer)
        self.optimizer.load_state_dict(state)

    def load_results(self, results: dict[str, Any]) -> None:
        """The part "results" of a `state_dict()`."""
        self.results.load_state_dict(results["measured"])
        self.loss.load_state_dict(results["loss"])
        for name, saved in results.get("logged", {}).items():
            self.logged[name] = LossMeter()
            self.logged[name].load_state_dict(saved)
        self.clock.load_state_dict(results["clock"])
        if self.cost is not None:
            self.cost.load_state_dict(results.get("cost"))
        for recorder in self.recorders:
            if recorder.name in results["recorders"]:
                recorder.load_state_dict(results["recorders"][recorder.name])


@dataclass(frozen=True)
class SaveContext:
    """Where training stands when a state is saved, and what was measured there.

    Attributes:
        position: where training stands.
        stage: the task's name in file names, `task0` … or `joint`.
        epoch: epochs of the task done.
        ended: index of the task that has just ended, if one has.
        measured: what the evaluation just made gave, by `average_accuracy.class_il`, …; empty
            when none was made here.
        split: what it was measured on, `test` or `validation`.
    """

    position: Position
    stage: str
    epoch: int
    ended: int | None = None
    measured: dict[str, float] = field(default_factory=dict)
    split: str = "test"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is durable now; `seconds` from the call of `save` to then."""

    path: Path
    task: int
    global_step: int
    seconds: float


class Checkpoints(Protocol):
    """What the trainer needs of a checkpoint manager."""

    def step_due(self, position: Position) -> bool:
        """Whether to save at this position; raises an error of the background writer."""
        ...

    def time_due(self) -> bool:
        """Whether to save at the next step boundary because of the time that has passed."""
        ...

    def wants_epochs(self) -> bool:
        """Whether every evaluated epoch is worth a file."""
        ...

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        """Write `state`, at once or in the background."""
        ...

    def take_saved(self) -> list[SavedCheckpoint]:
        """The checkpoints that have become durable since the last call."""
        ...

    def wait(self) -> None:
        """Until nothing is being written any more; raises as `step_due`."""
        ...

    def finish(self) -> None:
        """The run ended well and its results are durable."""
        ...
