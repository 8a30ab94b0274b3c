"""What a search of hyperparameters found: the choice, tune.json and tune.md."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import perdure
from perdure.analysis.tables import markdown_table as table
from perdure.cli.runs import Ended
from perdure.cli.search_space import Point, Space
from perdure.config.folder import CHECKOUT
from perdure.config.overrides import override
from perdure.errors import printable
from perdure.io.atomic import write_atomically, write_json
from perdure.tracking.formatting import scenario_name
from perdure.tracking.provenance import read_code

VALIDATION, TEST = "validation", "test"
"""Splits of a data set, as results.json names them."""

METRICS = ("class_il", "domain_il", "task_il")
"""Average accuracies; the first one that a scenario defines counts."""


@dataclass(frozen=True)
class Setup:
    """What the command line asks for.

    Attributes:
        on: the benchmark on whose validation split trials are measured.
        score: the benchmark on whose test set the choice is measured.
        words: as typed.
        flags: of `perdure train`, for every run.
        held_out: the override that holds out the validation split.
        budget: trials at most.
        search_seed: draws them from a larger grid.
        tune_seeds: runs of a trial.
        score_seeds: runs of the choice.
    """

    on: str
    score: str
    words: tuple[str, ...]
    flags: tuple[str, ...]
    held_out: str
    budget: int
    search_seed: int
    tune_seeds: tuple[int, ...]
    score_seeds: tuple[int, ...]


@dataclass
class Trial:
    """One point and what its runs gave; so far, while they go on.

    Attributes:
        point: of the space.
        split: what its runs must be measured on, as results.json names it.
        accuracy: in percent by seed.
        metric: which accuracy it is.
        failures: why a run has no accuracy, by seed.
        seconds: CPU seconds by seed.
    """

    point: Point
    split: str
    accuracy: dict[int, float] = field(default_factory=dict)
    metric: str = ""
    failures: dict[int, str] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its run folders."""
        return f"{self.point.number:03d}"

    @property
    def mean(self) -> float | None:
        """Over the seeds that have ended well; None without any."""
        return mean(self.accuracy.values()) if self.accuracy else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation over seeds; None for fewer than two."""
        return stdev(self.accuracy.values()) if len(self.accuracy) > 1 else None

    @property
    def value(self) -> float | None:
        """By which trials are compared: the mean; None where a run failed."""
        return None if self.failures else self.mean

    def take(self, seed: int, ended: Ended) -> None:
        """Add what one run left."""
        self.seconds[seed] = ended.cpu_seconds
        measured = ended.results.get("split")
        found = [metric for metric in METRICS if metric in ended.accuracy]
        if ended.failure:
            self.failures[seed] = ended.failure
        elif measured != self.split:
            self.failures[seed] = f"measured on the {measured} split, not the {self.split} split"
        elif not found:
            self.failures[seed] = f"no accuracy is defined; must be {', '.join(METRICS)}"
        else:
            self.metric = found[0]
            self.accuracy[seed] = ended.accuracy[self.metric]

    def row(self) -> dict[str, Any]:
        """The trial in tune.json."""
        return {
            "number": self.point.number,
            "values": self.point.values,
            "overrides": list(self.point.words),
            "metric": self.metric or None,
            "accuracy": _by_seed(self.accuracy),
            "mean": self.value,
            "cpu_seconds": sum(self.seconds.values()) if self.seconds else None,
            "failures": _by_seed(self.failures),
        }


@dataclass
class Search:
    """A search as it goes.

    Attributes:
        setup: what was asked for.
        space: all points.
        trials: those that are tried, in the order of the grid.
        model: the method's name.
        sealed: the data source, by its `_target_`, that trials may not load.
        own_space: whether the method's own space is searched; False where it has none, None where
            that was not asked for.
        scored: the choice on the other benchmark, once it is made.
        commit: the code's version, with a + where files differ from the commit.
    """

    setup: Setup
    space: Space
    trials: list[Trial]
    model: str
    sealed: str
    own_space: bool | None = None
    scored: Trial | None = None
    commit: str = field(default_factory=lambda: read_code(CHECKOUT).version)

    @property
    def title(self) -> str:
        """What is searched, in a line."""
        n = len(self.trials)
        tried = "all" if n == self.space.size else f"{n} of"
        points = f"{tried} {self.space.size} points of {', '.join(self.space.axes)}"
        return (
            f"{self.model} on {self.setup.on}, scored on {self.setup.score}: "
            f"{points if self.space.axes else 'one point'}"
        )

    @property
    def trials_run(self) -> int:
        """Trials all of whose runs have ended, well or not."""
        return sum(len(trial.seconds) == len(self.setup.tune_seeds) for trial in self.trials)

    @property
    def ranked(self) -> list[Trial]:
        """The trials, best first, of equal ones the first of the grid; without a value last."""
        with_value = [(trial.value, trial) for trial in self.trials if trial.value is not None]
        good = [trial for _, trial in sorted(with_value, key=lambda pair: -pair[0])]
        return [*good, *(trial for trial in self.trials if trial.value is None)]

    @property
    def choice(self) -> Trial | None:
        """The best trial; None where none has a value."""
        best = self.ranked[0]
        return None if best.value is None else best

    @property
    def first_failure(self) -> str:
        """Why the first trial failed; it must have."""
        return next(iter(self.trials[0].failures.values())).removeprefix("perdure: ")

    def as_json(self) -> dict[str, Any]:
        """What tune.json holds."""
        setup, scored = self.setup, self.scored
        return {
            "model": self.model,
            "on": setup.on,
            "score": setup.score,
            "words": list(setup.words),
            "validation": setup.held_out,
            "space": self.space.values,
            "grid_size": self.space.size,
            "budget": setup.budget,
            "trials_run": self.trials_run,
            "tune_seeds": list(setup.tune_seeds),
            "score_seeds": list(setup.score_seeds),
            "search_seed": setup.search_seed,
            "sealed": self.sealed,
            "trials": [trial.row() for trial in self.trials],
            "choice": None if scored is None else scored.point.values,
            "scored": None if scored is None else _scored(scored),
            "perdure": perdure.__version__,
            "commit": self.commit,
            "date": f"{datetime.now():%Y-%m-%d}",
        }

    def tables(self) -> str:
        """What tune.md holds below its title: the trials, and the choice on the test set."""
        axes = list(self.space.axes)
        heads = ["trial", *axes, f"{self.setup.on} validation %", "seeds", "CPU s"]
        rows = [heads, *([t.name, *_cells(t, axes, t.value)] for t in self.ranked if t.seconds)]
        if self.scored is None:
            return table(rows)
        heads = ["scored", *axes, f"{self.setup.score} test %", "seeds", "CPU s"]
        scored = ["choice", *_cells(self.scored, axes, self.scored.mean)]
        return f"{table(rows)}\n\n{table([heads, scored])}"

    def write(self, folder: Path) -> None:
        """Replace tune.json and tune.md in `folder`."""
        write_json(folder / "tune.json", self.as_json(), indent=2)
        lines = [f"# {printable(self.title)}", "", self.tables(), ""]
        write_atomically(folder / "tune.md", "\n".join(lines).encode())


def command_of(setup: Setup, words: list[str]) -> str:
    """A command that trains with these words, as typed in a shell."""
    return shlex.join(["perdure", "train", *setup.flags, *words])


def overrides_of(benchmark: str, space: Space, point: Point) -> list[str]:
    """The overrides with which a benchmark is trained at a point."""
    return [override("dataset", benchmark), *space.fixed, *point.words, "recipe=none"]


def line(trial: Trial, seed: int) -> str:
    """One run in a line."""
    what = "scored" if trial.split == TEST else f"trial {trial.name}"
    start = f"{what}: {' '.join([*trial.point.words, f'seed {seed}'])}"
    if seed in trial.failures:
        return f"{start}: FAILED: {trial.failures[seed]}"
    shown = f"{scenario_name(trial.metric)} {trial.accuracy[seed]:.2f}"
    return f"{start}: {shown} ({trial.seconds[seed]:.1f} CPU s)"


def _scored(trial: Trial) -> dict[str, Any]:
    row = trial.row()
    return {
        **{key: row[key] for key in ("metric", "accuracy", "cpu_seconds", "failures")},
        "mean": trial.mean,
        "std": trial.std,
        "n": len(trial.accuracy),
    }


def _by_seed(found: dict[int, Any]) -> dict[str, Any]:
    return {str(seed): found[seed] for seed in sorted(found)}


def _cells(trial: Trial, axes: list[str], value: float | None) -> list[str]:
    """The cells of a row after its name."""
    values = [printable(str(trial.point.values[key])).replace("|", r"\|") for key in axes]
    spread = "" if trial.std is None else f" ± {trial.std:.2f}"
    shown = "failed" if value is None else f"{value:.2f}{spread}"
    failed = f" ({len(trial.failures)} failed)" if trial.failures else ""
    return [*values, shown, f"{len(trial.accuracy)}{failed}", f"{sum(trial.seconds.values()):.1f}"]
