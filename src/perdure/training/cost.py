"""The cost ledger of a run: parameters, bytes, examples, FLOPs, passes, seconds of each phase."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.distributed.process_group import Ranks
from perdure.models.base import Method
from perdure.training.clock import Clock
from perdure.training.probe import Probe, StepCost
from perdure.training.replay import Replicated

PROBED_STEP = 9
"""The step of a phase's first epoch that is probed, or its last one: there is replay by then."""


@dataclass
class PhaseCost:
    """What a phase of a task took.

    Attributes:
        task: its number.
        phase: name of the phase.
        data: which examples it was trained on, as `Phase.data`.
        steps: batches.
        trained: examples in them, each as often as it came.
        replayed: examples of replay draws beside them.
        step: what the probed step took, which stands for all of them.
        seconds: of training, without evaluation and checkpoints.
        cpu_seconds: likewise.
    """

    task: int
    phase: str
    data: str
    steps: int = 0
    trained: int = 0
    replayed: int = 0
    step: StepCost = field(default_factory=StepCost)
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class CostLedger:
    """Counts what training costs as it goes; the same on any number of processes.

    Args:
        method: the method.
        clock: of the run.
        ranks: share the work.
        shards: parts of a batch.

    Attributes:
        phases: what each phase took, in order.
        is_whole: whether it has been kept from the start of the run.
    """

    def __init__(self, method: Method, clock: Clock, ranks: Ranks, shards: int) -> None:
        self.phases: list[PhaseCost] = []
        self.is_whole = True
        self._method = method
        self._clock = clock
        self._ranks = ranks
        self._shards = shards
        self._since = (0.0, 0.0)

    def begin(self, task: int, phase: str, data: str) -> None:
        """A phase starts, or goes on after a resume."""
        self.pause()
        if not (self.phases and (self.phases[-1].task, self.phases[-1].phase) == (task, phase)):
            self.phases.append(PhaseCost(task, phase, data))

    def add(self, trained: int, replayed: int) -> None:
        """A step was taken on so many examples, and so many of the memory."""
        now = self.phases[-1]
        now.steps += 1
        now.trained += trained
        now.replayed += replayed

    def probe(self) -> Probe:
        """What counts the cost of a step; `probed` takes it in."""
        return Probe(self._method)

    def probed(self, probe: Probe) -> None:
        """The phase's step was probed; all ranks must call it."""
        device = next(self._method.parameters()).device
        self.phases[-1].step = probe.cost(self._ranks, self._shards, device)

    def pause(self) -> None:
        """Give the seconds of training since the last call to the phase that was trained."""
        totals = self._clock.totals()
        now = (totals["seconds"]["training"], totals["cpu_seconds"]["training"])
        if self.phases:
            self.phases[-1].seconds += now[0] - self._since[0]
            self.phases[-1].cpu_seconds += now[1] - self._since[1]
        self._since = now

    def summary(self, replay: Replicated | None) -> dict[str, Any] | None:
        """The entry `cost` of results.json; None where a part of the run was not counted."""
        if not self.is_whole:
            return None
        self.pause()
        numbers, sizes = weights(self._method)
        exemplars = {"held": 0, "bytes_each": 0}
        if replay is not None:
            exemplars = {"held": replay.held, "bytes_each": replay.buffer.bytes_each}
        sizes["exemplars"] = exemplars["held"] * exemplars["bytes_each"]
        main = [phase for phase in self.phases if phase.phase == "main"] or self.phases
        return {
            "parameters": numbers,
            "bytes": {**sizes, "total": sum(sizes.values())},
            "exemplars": exemplars,
            "examples": {
                "trained": sum(phase.trained for phase in self.phases),
                "replayed": sum(phase.replayed for phase in self.phases),
            },
            "flops": sum(phase.steps * phase.step.flops for phase in self.phases),
            "step": asdict(main[-1].step) if main else None,
            "phases": [_rounded(asdict(phase)) for phase in self.phases],
            "clock": {"peak_memory_bytes": peak_memory()},
        }

    def state_dict(self) -> dict[str, Any]:
        self.pause()
        return {"phases": [asdict(phase) for phase in self.phases], "is_whole": self.is_whole}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore a `state_dict()`; None is that of a run that kept no ledger."""
        totals = self._clock.totals()
        self._since = (totals["seconds"]["training"], totals["cpu_seconds"]["training"])
        if state is None:
            self.is_whole = False
            return
        self.is_whole = state["is_whole"]
        self.phases = [
            PhaseCost(**{**phase, "step": StepCost(**phase["step"])}) for phase in state["phases"]
        ]


def weights(method: Method) -> tuple[dict[str, int], dict[str, int]]:
    """How many parameters a method has, and the bytes of all that it holds, by kind.

    The kinds: `trainable` parameters; `frozen` ones, with the statistics of the network (batch
    norm); `other_networks`, teachers and networks of earlier tasks, whole; `statistics`, the
    method's own buffers and extra state (Fisher information, class means, masks).
    """
    others = [
        network
        for network in method.modules()
        if isinstance(network, Backbone) and network is not method.backbone
    ]
    foreign = {id(t) for network in others for t in _tensors(network)}
    own = {id(b) for b in method.backbone.buffers()}
    numbers = dict.fromkeys(("trainable", "frozen", "other_networks"), 0)
    sizes = dict.fromkeys((*numbers, "statistics"), 0)
    for parameter in method.parameters():
        kind = "trainable" if parameter.requires_grad else "frozen"
        kind = "other_networks" if id(parameter) in foreign else kind
        numbers[kind] += parameter.numel()
        sizes[kind] += parameter.numel() * parameter.element_size()
    for buffer in method.buffers():
        kind = "frozen" if id(buffer) in own else "statistics"
        kind = "other_networks" if id(buffer) in foreign else kind
        sizes[kind] += buffer.numel() * buffer.element_size()
    sizes["statistics"] += _bytes_of_extra(method)
    return numbers, sizes


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _bytes_of_extra(method: nn.Module) -> int:
    """Of the tensors in what `get_extra_state` gives."""
    names = [name for name in method.state_dict() if name.rpartition(".")[2] == "_extra_state"]
    state = method.state_dict()
    return sum(_bytes_within(state[name]) for name in names)


def _bytes_within(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes_within, value.values()))
    return sum(map(_bytes_within, value)) if isinstance(value, list | tuple) else 0


def _rounded(phase: dict[str, Any]) -> dict[str, Any]:
    times = {name: round(phase[name], 3) for name in ("seconds", "cpu_seconds")}
    return {**phase, **times}


def peak_memory() -> int:
    """Bytes that this process, or the GPU for it, held at most."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return max(peak, torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak
