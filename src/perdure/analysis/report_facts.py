"""What the report of many runs says in words: headline, warnings, protocol, how to repeat."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from perdure.analysis.curves import Group, Spread, final_accuracy, metric
from perdure.analysis.groups import REPEATED
from perdure.analysis.runs import Run, varied
from perdure.errors import UserError
from perdure.io.files import read_json
from perdure.io.run_files import RESULTS_LIMIT, RunFiles
from perdure.tracking.formatting import percent, scenario_name
from perdure.tracking.report_parts import PROTOCOL, protocol_value, shown

SWEEP = "multirun.yaml"
"""What Hydra leaves in the folder of a sweep."""
_MOST, _SWEEP_LIMIT = 6, 2**20
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def title_of(runs: Sequence[Run]) -> str:
    """`40 runs of er, derpp on seq-mnist`."""
    n = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    models = _listed(run.setting("model") for run in runs)
    benchmarks = _listed(run.setting("dataset.name") for run in runs)
    return f"{n} of {models or '?'} on {benchmarks or '?'}"


def _listed(values: Iterator[str]) -> str:
    """Each once, in order; some, of many."""
    found = list(dict.fromkeys(value for value in values if value and value != "null"))
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(found[:_MOST]) + more


def best_of(groups: Sequence[Group], scenario: str) -> tuple[Group, Spread] | None:
    """The group of the highest mean average accuracy at the end."""
    ranked = _ranked(groups, scenario)
    return ranked[0] if ranked else None


def _ranked(groups: Sequence[Group], scenario: str) -> list[tuple[Group, Spread]]:
    known = [(g, s) for g in groups if (s := final_accuracy(g, scenario)) is not None]
    return sorted(known, key=lambda pair: -pair[1].mean)


def sentences(
    runs: Sequence[Run], groups: Sequence[Group], scenarios: Sequence[str]
) -> Iterator[str]:
    """The result in plain words; nothing is called better than its spread allows."""
    done = sum(run.is_finished for run in runs)
    if not groups:
        yield f"None of {len(runs)} runs has finished."
        return
    settings = f"{len(groups)} setting{'' if len(groups) == 1 else 's'}"
    yield f"{done} of {len(runs)} runs have finished, of {settings}."
    for scenario in scenarios[:1]:  # the hardest; the table has the others
        ranked = _ranked(groups, scenario)
        if not ranked:
            continue
        (group, spread), *others = ranked
        yield (
            f"{group.name} has the highest average accuracy after the last task "
            f"({scenario_name(scenario)}): {_with_spread(spread)}."
        )
        if others:
            yield _second(spread, *others[0])
        forgotten = metric(group, f"forgetting.{scenario}")
        if forgotten is not None:
            lost = percent(forgotten.mean)
            yield f"{group.name} has forgotten {lost} points of earlier tasks on average."


def _with_spread(spread: Spread) -> str:
    if spread.std is None:
        return f"{percent(spread.mean)} % (one run)"
    return f"{percent(spread.mean)} ± {percent(spread.std)} % ({spread.n} runs)"


def _second(first: Spread, group: Group, spread: Spread) -> str:
    gap = first.mean - spread.mean
    text = f"Next is {group.name} with {_with_spread(spread)}"
    if first.std is None or spread.std is None:
        return f"{text}; single runs do not tell whether that is chance."
    if gap <= max(first.std, spread.std):
        return f"{text}: a difference of {percent(gap)} points, within one standard deviation."
    return f"{text}, {percent(gap)} points less."


def warnings(runs: Sequence[Run], groups: Sequence[Group]) -> Iterator[str]:
    """What a reader must know before they quote a number."""
    for status, n in Counter(run.status for run in runs if not run.is_finished).items():
        names = _listed(run.folder.name for run in runs if run.status == status)
        yield f"{n} run{'' if n == 1 else 's'} {status}: {names}; left out of every number here."
    sizes = {len(group.runs) for group in groups}
    if len(sizes) > 1:
        yield f"Groups have different numbers of runs: {min(sizes)} to {max(sizes)}."
    if 1 in sizes:
        single = _listed(group.name for group in groups if len(group.runs) == 1)
        yield f"One run alone has no spread: {single}."
    if len({tuple(sorted(run.seed for run in group.runs)) for group in groups}) > 1 == len(sizes):
        yield "Groups were run with different seeds."
    for group in groups:
        own = varied(group.runs, without=REPEATED)
        if own:
            yield f"Runs of {group.name} differ in {', '.join(own)} too."
    splits = {shown(run.results.get("split")) for run in runs if run.is_finished}
    if "validation" in splits:
        yield "Accuracies are on validation examples, not on the test set."
    resumed = [run for run in runs if run.results.get("resumes")]
    if resumed:
        yield (
            f"{len(resumed)} run{'' if len(resumed) == 1 else 's'} resumed or branched from a "
            f"checkpoint: {_listed(run.folder.name for run in resumed)}; see their own reports."
        )


def protocol(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """What decides whether results may be compared: one value, or each that occurs."""
    configured = [run for run in runs if run.config]
    for key, name in PROTOCOL.items():
        values = [run.config.get(key) for run in configured]
        if any(value is not None for value in values):
            texts = ("none" if value is None else protocol_value(value) for value in values)
            yield name, _listed(texts)


def environment(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Software and machine: one value, or each that occurs."""
    found = [run.results.get("environment") for run in runs]
    known = [entry for entry in found if isinstance(entry, Mapping)]
    for key in dict.fromkeys(key for entry in known for key in entry):
        yield str(key), _listed(shown(entry.get(key, "?")) for entry in known)
    commits = dict.fromkeys(filter(None, map(_commit, runs)))
    if commits:
        yield "code", _listed(iter(commits))


def _commit(run: Run) -> str:
    try:
        with (RunFiles(run.folder).code / "commit.txt").open(errors="replace") as file:
            return file.readline(200).strip()
    except OSError:
        return ""


def commands(folder: Path, runs: Sequence[Run]) -> list[str]:
    """What to type to make these runs again: the sweep's own command, else one a run."""
    words = _swept(folder)
    if words:
        return [f"perdure train -m {shlex.join(words)}"]
    typed = [[f"{key}={value}" for key, value in run.typed.items()] for run in runs if run.typed]
    return list(dict.fromkeys(f"perdure train {shlex.join(words)}" for words in typed))[:40]


def _swept(folder: Path) -> list[str]:
    """The overrides of the sweep in `folder`; nothing where it is none, or they cannot be read."""
    path = folder / SWEEP
    try:
        if path.stat().st_size > _SWEEP_LIMIT:
            return []
        overrides = yaml.load(path.read_text(), _LOADER)["hydra"]["overrides"]
        typed = [str(word) for word in overrides["task"]]
        machinery = ("hydra.sweep.dir=", "hydra.mode=")
        return typed + [w for w in map(str, overrides["hydra"]) if not w.startswith(machinery)]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return []


def keys_that_vary(runs: Sequence[Run]) -> list[str]:
    """Keys that were typed, and in which the runs differ; the seed last."""
    keys = varied(runs)
    return sorted(keys, key=lambda key: key in REPEATED)


def published_rows(groups: Sequence[Group]) -> str:
    """Each group beside the published row whose protocol its configuration matches."""
    from perdure.tracking.report_published import Measured, choice_of, published_section

    parts = []
    for group in groups:
        choice = choice_of(_configuration(group.runs[0]))
        if choice.setting is None:
            continue
        measured = {
            name: Measured(s.mean, s.std, s.n)
            for name in dict.fromkeys(n for run in group.runs for n in run.metrics)
            if (s := metric(group, name)) is not None
        }
        if rows := published_section(choice, measured):
            parts.append(f"<h3>{escape(group.name)}</h3>{rows}")
    return "".join(parts)


def _configuration(run: Run) -> dict[str, Any]:
    """The resolved configuration, nested; empty where it cannot be read."""
    try:
        found = read_json(RunFiles(run.folder).settings, RESULTS_LIMIT)
    except (OSError, ValueError, UserError):
        return {}
    return found if isinstance(found, dict) else {}
