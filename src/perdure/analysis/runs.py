"""Reading many runs: settings, metrics and costs of each run folder, by glob or by sweep.

Run folders are foreign data here: one that cannot be read is a run of status `damaged`, not an
error. Nothing below a run folder is looked through, so that a thousand runs take seconds.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from perdure.config.compare import decides_result
from perdure.config.method_name import JOINT
from perdure.errors import UserError
from perdure.io.files import read_json
from perdure.io.run_files import HYDRA, RESULTS, RESULTS_LIMIT, RunFiles
from perdure.tracking.formatting import SCENARIOS

FINISHED = "finished"
REMOTE = "wandb://"
"""How a project of W&B begins, in place of a folder."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SEEDS = ("seed",)
ORDERS = ("dataset.seed", "dataset.class_order")
"""Keys in which the runs of one setting may differ: repetitions, not settings."""
BRANCH = "branch"
"""The key, beside those of the configuration, that tells a fork of another run from a whole run."""
_INCREMENTAL = "average_incremental_accuracy"
_COSTS = {
    "cost.parameters": ("cost", "parameters", "trainable"),
    "cost.bytes": ("cost", "bytes", "total"),
    "cost.exemplar_bytes": ("cost", "bytes", "exemplars"),
    "cost.trained": ("cost", "examples", "trained"),
    "cost.replayed": ("cost", "examples", "replayed"),
    "cost.flops": ("cost", "flops"),
    "cost.peak_memory": ("cost", "clock", "peak_memory_bytes"),
    "cost.seconds": ("seconds", "total"),
    "cost.cpu_seconds": ("cpu_seconds", "total"),
}
"""What a run cost → where results.json has it."""
LOWER_IS_BETTER = (
    "forgetting", "relative_forgetting", "windowed_forgetting", "intransigence", "stability_gap",
    "expected_calibration_error", "brier_score", "cost.",
)  # fmt: skip
"""How metrics begin of which less is better."""
_TUNED = "tune.json"
"""What `perdure tune` leaves beside `scored/`, the runs of its choice."""


@dataclass(frozen=True)
class Run:
    """A run folder, as far as it can be read.

    Attributes:
        folder: its path.
        status: finished, running, resumable, failed, interrupted, `not started`, or damaged.
        typed: the overrides with which it was started, key → value, without those that change no
            result (`tracking.*`, `checkpoint.*`, …).
        config: key → value of its whole configuration, flat (`buffer.size` → 200), and `BRANCH`.
        results: the content of results.json.
        recorded: metrics of the catalog, computed from its records by `recorded.with_recorded`.
    """

    folder: Path
    status: str
    typed: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether it trained and measured all that it was started for."""
        return self.status == FINISHED

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Name → value; accuracies are fractions (`average_accuracy.class_il`), costs are in
        bytes, FLOPs, examples and seconds (`cost.bytes`). Undefined ones are left out."""
        found = dict(self.recorded)
        found |= {
            f"{metric}.{name}": float(value)
            for metric, values in self.results.items()
            if isinstance(values, dict)
            for name, value in values.items()
            if name in SCENARIOS and _is_number(value)
        }
        for name, value in self._incremental().items():
            found.setdefault(f"{_INCREMENTAL}.{name}", value)
        for name, path in _COSTS.items():
            cost: Any = self.results
            for part in path:
                cost = cost.get(part) if isinstance(cost, dict) else None
            if _is_number(cost):
                found[name] = float(cost)
        return found

    def _incremental(self) -> dict[str, float]:
        """Average incremental accuracy: the mean over tasks of the average accuracy after each.

        1/T Σ_i 1/i Σ_{j≤i} R[i, j], of the accuracy matrices; Rebuffi et al. 2017 (iCaRL). Left
        out where the end of a task was not measured.
        """
        matrices = self.results.get("accuracy_matrix")
        found = {}
        for name, rows in matrices.items() if isinstance(matrices, dict) else ():
            means = [_mean_of_seen(row, task) for task, row in enumerate(_list(rows))]
            if means and len(means) == self.results.get("n_tasks") and None not in means:
                found[str(name)] = math.fsum(mean for mean in means if mean is not None) / len(
                    means
                )
        return found

    @cached_property
    def tuning(self) -> str:
        """The budget with which `perdure tune` chose the run's hyperparameters; empty: unknown."""
        if self.folder.parent.name != "scored":
            return ""
        try:
            tuned = _object(self.folder.parent.parent / _TUNED)
        except (OSError, ValueError):
            return ""
        trials, seeds, on = tuned.get("trials_run"), tuned.get("tune_seeds"), tuned.get("on")
        if type(trials) is not int or not isinstance(on, str):
            return ""
        runs = trials * (len(seeds) if isinstance(seeds, list) else 1)
        more = "" if runs == trials else f", {runs} runs"
        return f"{trials} trial{'' if trials == 1 else 's'}{more} on {on}"

    def setting(self, key: str) -> str:
        """The value of a key of the configuration or of a group (`model`), as text.

        The configuration counts first, then what was typed; `model` has its add-on with it
        (`derpp+star`). Empty where the run has no such key.
        """
        if key in ("model", "addon"):
            return self._method() if key == "model" else _text(self.config.get("addon.name"))
        if key in self.config:
            return _text(self.config[key])
        if key in self.typed:
            return self.typed[key]
        named = self.config.get(f"{key}.name")
        return _text(self._choices.get(key, "") if named is None else named)

    def _method(self) -> str:
        model = (
            self.config.get("model.name") or self.results.get("model") or self.typed.get("model")
        )
        addon = self.config.get("addon.name")
        return _text(model) if addon is None else f"{_text(model)}{JOINT}{_text(addon)}"

    @cached_property
    def _choices(self) -> dict[str, str]:
        """Group → the option that was composed, of groups whose options bear no name."""
        try:
            text = (RunFiles(self.folder).hydra / "hydra.yaml").read_text()
            choices = yaml.load(text, _LOADER)["hydra"]["runtime"]["choices"]
            return {str(group): _text(option) for group, option in choices.items()}
        except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError):
            return {}

    @property
    def seed(self) -> str:
        """The seed of initialization, order of examples and buffer."""
        return self.setting("seed")

    @property
    def order(self) -> str:
        """What the benchmark's random draws and the order of its classes are taken from.

        `dataset.seed`, and `dataset.class_order` where one is set: with the seed it tells the
        repetitions of a setting apart.
        """
        seed, order = self.setting("dataset.seed"), self.config.get("dataset.class_order")
        return seed if order is None else f"{seed} {_text(order)}"

    @property
    def class_order(self) -> str:
        """What the classes of its tasks are ordered by: a list, a seed, or the data set itself.

        results.json does not tell orders apart: its labels are those of the reordered classes.
        """
        order, seed = self.config.get("dataset.class_order"), self.setting("dataset.seed")
        if order is not None:
            return f"random {seed}" if order == "random" else _text(order)
        # Permutations, angles and blurry streams are drawn from the seed whatever the order is.
        is_drawn = self.results.get("scenario") != "class-incremental"
        return f"drawn {seed}" if is_drawn else "the data set's own"


def read(places: Iterable[str | Path]) -> list[Run]:
    """The runs in `places`, each once, in the order of their paths (numbers as numbers).

    Args:
        places: run folders, folders that hold some at any depth (sweeps), globs of either, or
            projects of W&B, `wandb://entity/project`.

    Raises:
        UserError: one of them is no folder, or holds no run.
    """
    folders: dict[Path, None] = {}
    remote: list[Run] = []
    for place in places:
        text = os.fspath(place)
        if text.startswith(REMOTE):
            remote += read_project(text)
            continue
        matched = sorted(glob.glob(text)) if glob.has_magic(text) else [text]
        found = [run for match in matched for run in run_folders(Path(match))]
        if not found:
            raise UserError(
                f"{text}: there is no run; must be a run folder, a folder with runs below it, "
                "or a glob of these"
            )
        folders |= dict.fromkeys(found)
    return [*(read_run(folder) for folder in sorted(folders, key=_order)), *remote]


def read_project(address: str) -> list[Run]:
    """The runs of the project `wandb://entity/project`, the oldest first.

    Of their results they have what W&B's summary has.

    Raises:
        UserError: it is no such address, or the project cannot be read.
    """
    entity, _, project = address.removeprefix(REMOTE).partition("/")
    if not entity or not project or set("/:") & set(project):
        raise UserError(f"{address}: must be a project, wandb://entity/project")
    from perdure.wandb import rows, session  # only where it is used

    try:
        sent = session.project_runs(entity, project)
    except session.MirrorError as error:
        raise UserError(f"{address}: {error}") from error
    runs = []
    for each in sent:
        named = {rows.nested_key(key): value for key, value in each.config.items()}
        config = {key: value for key, value in named.items() if key and _counts(key)}
        status = str(each.summary.get("status") or each.state)
        results = rows.results_of(each.summary)
        name = re.sub(r"[^\w-]", "-", each.id)  # no path of the server's choice
        runs.append(Run(Path(address, name), status, {}, config, results))
    return runs


def run_folders(place: Path) -> Iterator[Path]:
    """Run folders at and below `place`; links are not followed, runs not looked into."""
    for here, below, names in os.walk(place):
        if RESULTS in names or HYDRA in below:
            yield Path(here)
            below.clear()


def read_run(folder: Path) -> Run:
    """The run in `folder`."""
    files = RunFiles(folder)
    typed = _typed(files)
    try:
        results = _object(files.results) if files.results.is_file() else {}
        nested = _object(files.settings) if files.settings.is_file() else {}
    except (OSError, ValueError):
        return Run(folder, "damaged", typed)
    status = str(results.get("status", "not started"))
    if status == "running":
        status = _ended(files) or status
    config = {key: value for key, value in _flat(nested) if _counts(key)}
    if config and (branch := _branch(results)):
        config[BRANCH] = branch
    return Run(folder, status, typed, config, results)


def selected(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """The runs for which each of `conditions`, `key=value`, is true.

    Raises:
        UserError: one is no condition, or no run has that value.
    """
    left = list(runs)
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not key or not equals:
            raise UserError(f"{condition}: must be a condition, key=value, as model=er")
        known = list(dict.fromkeys(run.setting(key) for run in left))
        left = [run for run in left if run.setting(key) == value]
        if not left:
            shown = ", ".join(filter(None, known)) or "nothing: no run has this key"
            raise UserError(f"{condition}: no run has this value; must be {shown}")
    return left


def varied(runs: Sequence[Run], without: Iterable[str] = ()) -> list[str]:
    """Keys that were typed for a run and in which the runs differ, in the order of typing."""
    typed = dict.fromkeys(key for run in runs for key in run.typed)
    left = [key for key in typed if key not in set(without)]
    return [key for key in left if len({run.setting(key) for run in runs}) > 1]


def _typed(files: RunFiles) -> dict[str, str]:
    try:
        listed = yaml.load(files.typed_overrides.read_text(), _LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    words = [str(word).lstrip("+~").partition("=") for word in listed or ()]
    return {key: value for key, _, value in words if decides_result(key)}


def _branch(results: Mapping[str, Any]) -> str:
    """Of which methods, and before which tasks, the run's forks were taken; empty: of none."""
    entries = [entry for entry in _list(results.get("resumes")) if isinstance(entry, dict)]
    return ", ".join(
        f"{_text(entry.get('model'))} before task {_text(entry.get('task'))}"
        for entry in entries
        if entry.get("fork") is True
    )


def _ended(files: RunFiles) -> str:
    """How the run's last process ended, where it could still write that."""
    try:
        return str(_object(files.status).get("status") or "")
    except (OSError, ValueError):
        return ""


def _counts(key: str) -> bool:
    """Whether a key of the configuration decides the result; `recipe` does by other keys."""
    return key != "recipe" and decides_result(key)


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path, RESULTS_LIMIT)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mean_of_seen(row: Any, task: int) -> float | None:
    """The mean of a row's entries on the tasks up to `task`; None where one is missing."""
    seen = _list(row)[: task + 1]
    if len(seen) <= task or not all(map(_is_number, seen)):
        return None
    return math.fsum(seen) / len(seen)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _order(folder: Path) -> tuple[tuple[int, str], ...]:
    """Numbers of jobs as numbers, so that job 10 comes after job 9."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in folder.parts)
