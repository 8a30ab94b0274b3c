"""Several methods, each tuned with the same budget: comparison.json and comparison.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import perdure
from perdure.analysis.tables import markdown_table as table
from perdure.cli.method_spaces import OWN
from perdure.cli.tune_report import Search, Setup
from perdure.config.folder import CHECKOUT
from perdure.errors import printable
from perdure.io.atomic import write_atomically, write_json
from perdure.tracking.formatting import scenario_name
from perdure.tracking.provenance import read_code


@dataclass(frozen=True)
class Comparison:
    """The searches of several methods as they go; their setups differ in the method alone.

    Attributes:
        searches: by method, in the order of the rows.
        commit: the code's version, with a + where files differ from the commit.
    """

    searches: Mapping[str, Search]
    commit: str = field(default_factory=lambda: read_code(CHECKOUT).version)

    @property
    def setup(self) -> Setup:
        """What holds for all methods."""
        return next(iter(self.searches.values())).setup

    @property
    def is_whole(self) -> bool:
        """Whether each method has been scored, without a failed run."""
        scored = [search.scored for search in self.searches.values()]
        return all(trial is not None and not trial.failures for trial in scored)

    @staticmethod
    def folder_of(method: str) -> str:
        """The folder of a method, below that of the comparison."""
        return method.replace("/", "-")

    @property
    def notes(self) -> list[str]:
        """The budget in sentences: what each method got, and where one got less."""
        return [self._budget(), *self._differences(), *self._failures(), *self._accuracies()]

    def text(self) -> str:
        """What comparison.md holds below its title: a row a method, and the notes."""
        heads = ["method", f"{self.setup.score} test %", "accuracy", "n"]
        heads += ["trials of its grid", "tuning CPU s", "chosen"]
        rows = [heads, *(_cells(name, search) for name, search in self.searches.items())]
        return "\n".join([table(rows), "", *(f"- {printable(note)}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """What comparison.json holds."""
        setup = self.setup
        return {
            "on": setup.on,
            "score": setup.score,
            "validation": setup.held_out,
            "budget": setup.budget,
            "search_seed": setup.search_seed,
            "tune_seeds": list(setup.tune_seeds),
            "score_seeds": list(setup.score_seeds),
            "methods": [self._row(name, search) for name, search in self.searches.items()],
            "notes": self.notes,
            "perdure": perdure.__version__,
            "commit": self.commit,
            "date": f"{datetime.now():%Y-%m-%d}",
        }

    def write(self, folder: Path) -> None:
        """Replace comparison.json and comparison.md in `folder`."""
        write_json(folder / "comparison.json", self.as_json(), indent=2)
        names = ", ".join(self.searches)
        title = f"# {names} on {self.setup.on}, scored on {self.setup.score}"
        text = "\n".join([printable(title), "", self.text(), ""])
        write_atomically(folder / "comparison.md", text.encode())

    def _row(self, name: str, search: Search) -> dict[str, Any]:
        """A method in comparison.json; what it has not reached yet is null."""
        found = search.as_json()
        scored = found["scored"] or {}
        return {
            "method": name,
            "model": search.model,
            "folder": self.folder_of(name),
            "words": found["words"],
            **{key: scored.get(key) for key in ("metric", "mean", "std", "n")},
            **{key: found[key] for key in ("trials_run", "grid_size", "space", "choice")},
            "own_space": search.own_space,
            "tuning_cpu_seconds": _cpu_seconds(search),
        }

    def _budget(self) -> str:
        setup = self.setup
        spaces = {search.own_space for search in self.searches.values()}
        space = "the space that was typed" if spaces == {None} else "its own space"
        return (
            f"Budget: up to {setup.budget} trials for each method, of {space}, drawn at random "
            f"without repetition where the grid is larger (search seed {setup.search_seed}); a run "
            f"a trial with each of the seeds {_listed(setup.tune_seeds)}, measured on "
            f"{setup.held_out} of {setup.on}. The choice: the seeds {_listed(setup.score_seeds)}, "
            f"on the test set of {setup.score}."
        )

    def _differences(self) -> Iterator[str]:
        for name, search in self.searches.items():
            budget, whole = self.setup.budget, search.space.size
            if whole < budget:
                yield f"{name}: {whole} of {budget} trials, its whole grid."
            if search.own_space is False:
                yield (
                    f"{name}: has no space of its own (search={OWN}); the learning rate alone was "
                    "searched."
                )

    def _failures(self) -> Iterator[str]:
        for name, search in self.searches.items():
            failed = sum(bool(trial.failures) for trial in search.trials)
            if search.scored is None and failed == len(search.trials):
                yield f"{name}: every trial failed, the first one: {search.first_failure}"
            elif failed:
                yield f"{name}: {failed} of {len(search.trials)} trials failed."
            if search.scored is not None and search.scored.failures:
                n = len(search.scored.failures)
                yield f"{name}: {n} of {len(self.setup.score_seeds)} scored runs failed."

    def _accuracies(self) -> Iterator[str]:
        """A warning where rows are of different accuracies."""
        kinds: dict[str, list[str]] = {}
        for name, search in self.searches.items():
            if search.scored is not None and search.scored.metric:
                kinds.setdefault(search.scored.metric, []).append(name)
        if len(kinds) > 1:
            listed = (f"{scenario_name(kind)} of {', '.join(who)}" for kind, who in kinds.items())
            yield f"Rows of different accuracies do not compare: {'; '.join(listed)}."


def _cells(name: str, search: Search) -> list[str]:
    scored = search.scored
    trials = f"{search.trials_run} of {search.space.size}"
    seconds = f"{_cpu_seconds(search):.1f}"
    if scored is None or scored.mean is None:
        ended = "failed" if search.trials_run else "-"
        return [name, ended, "-", "0", trials, seconds, "-"]
    spread = "" if scored.std is None else f" ± {scored.std:.2f}"
    accuracy = f"{scored.mean:.2f}{spread}"
    metric, n = scenario_name(scored.metric), str(len(scored.accuracy))
    values = scored.point.values.items()
    chosen = " ".join(f"{key}={value}" for key, value in values) or "-"
    return [name, accuracy, metric, n, trials, seconds, printable(chosen).replace("|", r"\|")]


def _cpu_seconds(search: Search) -> float:
    """Of all trials."""
    return sum(sum(trial.seconds.values()) for trial in search.trials)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
