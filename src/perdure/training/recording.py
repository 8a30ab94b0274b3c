"""What surrounds training: recorders, checkpoints and facts of a run, and how it was launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.config.schema import EvaluationConfig
from perdure.distributed.process_group import Ranks
from perdure.tracking.events import Event, Recorder
from perdure.training.clock import Moment
from perdure.training.state import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Recorders, checkpoints, and the facts of the run that they show; none of it alters training.

    Attributes:
        recorders: receive the run's events, in this order.
        checkpoints: saves the run's state; None saves nothing.
        folder: the run's folder, for the recorders.
        config: the composed configuration, for the recorders and the checkpoints.
        facts: what results.json holds besides measurements: model, dataset, seed, …
        evaluation: which raw records and probes there are beside them; None makes none.
    """

    recorders: Sequence[Recorder] = ()
    checkpoints: Checkpoints | None = None
    folder: Path = Path()
    config: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationConfig | None = None

    def emit(self, event: Event) -> None:
        """Send `event` to every recorder."""
        for recorder in self.recorders:
            recorder.receive(event)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How this process was started: among which ranks, when, and what may ask it to stop.

    Attributes:
        ranks: share the work; by default this process alone.
        stop: called at every step boundary; a reason to save and exit, or None.
        started: when the run began; None is now.
    """

    ranks: Ranks = field(default_factory=Ranks)
    stop: Callable[[], str | None] = lambda: None
    started: Moment | None = None
