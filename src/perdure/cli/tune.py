"""Search hyperparameters on one data set's validation split; score them on another benchmark.

perdure tune model=derpp on=seq-fmnist score=seq-mnist          four learning rates
perdure tune model=derpp on=seq-fmnist score=seq-mnist optimizer.lr=0.03,0.1 model.alpha=0.2,0.5,1
perdure tune model=derpp search=default on=… score=…            the method's own space
perdure tune model=er,derpp on=… score=… --trials 8             several methods, one budget
perdure tune … --folder outputs/tune-…                          continue what was interrupted

A word with several values (Hydra's sweep syntax: a list, choice or range) is part of the space;
all others hold for every run. search=default adds the space of the method, from the file
search/spaces/NAME.yaml in conf/ or in a --config-dir; keys that are typed replace those of the
file. Several methods get as many trials each, of their own spaces.

A trial trains on a part of on=NAME and is measured on the rest of its training data; the best one
is trained on score=NAME and measured on its test set, whose data no trial can load. Leaves
tune.json, tune.md and a folder a run; of several methods these in a folder a method, and
comparison.json and comparison.md. Exit status 1: every trial of a method, or a scored run, failed;
2: a mistake in the command.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from perdure.cli.main import exit_run, explained, worded_exit
from perdure.cli.method_spaces import asked, for_method, methods_of, with_own_space
from perdure.cli.runs import Job, run_all
from perdure.cli.search_space import Space, space_of
from perdure.cli.tune_comparison import Comparison
from perdure.cli.tune_report import (
    TEST,
    VALIDATION,
    Search,
    Setup,
    Trial,
    command_of,
    line,
    overrides_of,
)
from perdure.config import compose, error_messages
from perdure.config.build import import_from_here
from perdure.config.folder import options as options_of
from perdure.config.overrides import Arguments, parse, readable
from perdure.config.validation import validate
from perdure.errors import UserError, printable
from perdure.io.redaction import ADDRESSES
from perdure.run.sealed import derives

_OURS = {
    "dataset": "must be left out: on=NAME and score=NAME choose the benchmarks",
    "seed": "must be left out: --tune-seeds and --score-seeds choose it",
    "recipe": "must be left out: published values are for published settings, here it is none",
}
"""Keys that the search itself sets."""

_HELD_OUT_KEY = "dataset.validation"
_HELD_OUT = 0.1
"""Part of the training data on which trials are measured."""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Search, score and report; returns the exit status."""
    options = _options(arguments)
    words = [readable(word) for word in ADDRESSES.command(options.words)]
    folder = options.folder or Path("outputs", f"tune-{datetime.now():%Y%m%d-%H%M%S}")
    import_from_here()
    try:
        with explained(words):
            methods = methods_of(words)
            if len(methods) < 2:
                return run(search_of(words, options), folder.resolve(), options.jobs)
            comparison = Comparison(searches_of(methods, words, options))
            return run_each(comparison, folder.resolve(), options.jobs)
    except KeyboardInterrupt:
        exit_run(f"interrupted; the same command with --folder {folder} continues", 130)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perdure tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="on=NAME, score=NAME, and words of perdure train",
    )
    parser.add_argument("--trials", type=int, default=16, help="of a larger grid so many (16)")
    parser.add_argument("--search-seed", type=int, default=0, help="draws them (0)")
    parser.add_argument("--tune-seeds", nargs="+", type=int, default=[0], help="runs a trial (0)")
    parser.add_argument(
        "--score-seeds", nargs="+", type=int, default=[0, 1, 2], help="scored runs (0 1 2)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--folder", type=Path, help="where the runs go; finished ones are kept")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="a folder of configuration files of your own"
    )
    return parser.parse_intermixed_args(arguments)


# --- what is asked for ----------------------------------------------------------------------------


def search_of(words: Sequence[str], options: argparse.Namespace) -> Search:
    """The search that a command line asks for, both benchmarks composed and compared.

    Raises:
        UserError: a word, a number or the pair of benchmarks is not accepted.
    """
    _require_numbers(options)
    names, rest = _benchmarks(words)
    search = asked(rest)
    folders = [Path(options.config_dir).resolve()] if options.config_dir else []
    flags = [f"--config-dir={folder}" for folder in folders]
    compose.register(Arguments(tuple(flags)).config_folders)
    held_out = [word for word in search.words if parse(word).key == _HELD_OUT_KEY]
    rest = [word for word in search.words if word not in held_out]
    rest, has_own = with_own_space(rest, folders) if search.own else (rest, None)
    space = space_of(rest, fallback=not search.own)
    setup = Setup(
        on=names["on"],
        score=names["score"],
        flags=tuple(flags),
        held_out=_held_out(held_out),
        words=tuple(words),
        budget=options.trials,
        search_seed=options.search_seed,
        tune_seeds=tuple(options.tune_seeds),
        score_seeds=tuple(options.score_seeds),
    )
    on, score = (_composed(setup, space, key, name) for key, name in names.items())
    _require_apart(setup, on, score)
    trials = [Trial(point, VALIDATION) for point in space.draw(options.trials, options.search_seed)]
    sealed = str(score.dataset.source["_target_"])
    return Search(setup, space, trials, str(on.model.name), sealed, has_own)


def searches_of(
    methods: Sequence[str], words: Sequence[str], options: argparse.Namespace
) -> dict[str, Search]:
    """The search of each of several methods, with the same budget and seeds.

    Raises:
        UserError: as `search_of`; names the method.
    """
    searches = {}
    for method in methods:
        try:
            searches[method] = search_of(for_method(method, words), options)
        except UserError as error:
            named = f"model={method}"
            raise UserError(f"{error}" if named in str(error) else f"{error} ({named})") from error
    return searches


def _require_numbers(options: argparse.Namespace) -> None:
    for name in ("trials", "jobs"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be an integer, 1 or more")
    seeds = {"--search-seed": [options.search_seed], "--tune-seeds": options.tune_seeds}
    for name, given in {**seeds, "--score-seeds": options.score_seeds}.items():
        if min(given) < 0 or len(set(given)) < len(given):
            shown = " ".join(map(str, given))
            raise UserError(f"{name} {shown}: must be integers, 0 or more, each once")


def _benchmarks(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The names of both benchmarks, and the words for the runs."""
    names: dict[str, str] = {}
    rest = []
    for word in words:
        typed = parse(word)
        if "=" not in word and not typed.deletes:
            raise UserError(f"{word}: must be an override, key=value")
        if typed.key in ("on", "score"):
            if typed.is_sweep or typed.key in names or not isinstance(typed.value, str):
                raise UserError(f"{word}: must be one benchmark")
            names[typed.key] = typed.value
        elif typed.key in _OURS:
            raise UserError(f"{word}: {_OURS[typed.key]}")
        elif typed.key.startswith(("hydra.", "hydra/")):
            raise UserError(f"{word}: must be a key of the run's own, none of hydra")
        else:
            rest.append(word)
    for key in ("on", "score"):
        if not names.get(key):
            raise UserError(f"{key}=: is not set; must be {', '.join(options_of('dataset'))}")
    return {key: names[key] for key in ("on", "score")}, rest


def _held_out(words: Sequence[str]) -> str:
    """The override that holds out the validation split of trials."""
    for word in words:
        value = parse(word).value
        is_fraction = isinstance(value, float | int) and 0 < value < 1
        if not is_fraction or len(words) > 1:
            raise UserError(
                f"{word}: trials are measured on it; must be one fraction above 0 and below 1"
            )
    return words[0] if words else f"{_HELD_OUT_KEY}={_HELD_OUT}"


def _composed(setup: Setup, space: Space, key: str, name: str) -> DictConfig:
    """The configuration of the first point on the benchmark that `key` names."""
    first = space.point(0)
    words = [*setup.flags, *overrides_of(name, space, first)]
    command = Arguments(tuple(words))
    try:
        config = compose.compose(*command.search_path, *(each.text for each in command.overrides))
        validate(config)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sentence = error_messages.explain(error, words)
        raise UserError(sentence.replace(f"dataset={name}: ", f"{key}={name}: ", 1)) from error
    return config


def _require_apart(setup: Setup, on: DictConfig, score: DictConfig) -> None:
    """Refuse benchmarks of the same data, or that ask for different things.

    A class and its subclasses count as the same data, whatever their options.
    """
    sources = [str(config.dataset.source["_target_"]) for config in (on, score)]
    if derives(*sources) or derives(*sources[::-1]):
        raise UserError(
            f"on={setup.on}: is of the same data source as score={setup.score} "
            f"({sources[0]}, {sources[1]}); must be a benchmark of other data"
        )
    kinds = [str(config.dataset.scenario["_target_"]) for config in (on, score)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"on={setup.on}: its scenario is {kinds[0]}, that of score={setup.score} is "
            f"{kinds[1]}; must be a benchmark of the same scenario"
        )


# --- running --------------------------------------------------------------------------------------


def run(search: Search, folder: Path, at_a_time: int) -> int:
    """Run the trials, then the choice on the other benchmark; returns the exit status.

    tune.json and tune.md are rewritten after each run.
    """
    scored = _find(search, folder, at_a_time)
    if scored is None:
        exit_run(f"every trial failed, the first one: {search.first_failure}", 1)
    setup = search.setup
    print(search.tables())
    words = overrides_of(setup.score, search.space, scored.point)
    print(f"to use it: {printable(command_of(setup, words))}")
    print(f"written to {folder}")
    return 1 if scored.failures else 0


def run_each(comparison: Comparison, folder: Path, at_a_time: int) -> int:
    """Run the search of each method, in a folder of its own; returns the exit status.

    comparison.json and comparison.md are rewritten after each method.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for method, search in comparison.searches.items():
        _find(search, folder / comparison.folder_of(method), at_a_time)
        comparison.write(folder)
    print(f"\n{comparison.text()}\n")
    print(f"written to {folder}")
    return 0 if comparison.is_whole else 1


def _find(search: Search, folder: Path, at_a_time: int) -> Trial | None:
    """Run the trials, then the choice; returns what it scored, or None where every trial failed."""
    folder.mkdir(parents=True, exist_ok=True)
    setup = search.setup
    print(printable(search.title), flush=True)
    trials = [
        (trial, seed, _job(search, trial, seed, folder))
        for trial in search.trials
        for seed in setup.tune_seeds
    ]
    _run_jobs(search, trials, folder, at_a_time)
    chosen = search.choice
    if chosen is None:
        return None
    search.scored = Trial(chosen.point, TEST)
    scored = [
        (search.scored, seed, _job(search, search.scored, seed, folder))
        for seed in setup.score_seeds
    ]
    _run_jobs(search, scored, folder, at_a_time)
    return search.scored


def _job(search: Search, trial: Trial, seed: int, folder: Path) -> Job:
    """The run of a trial, or of the choice, with a seed."""
    setup = search.setup
    is_scored = trial.split == TEST
    name = setup.score if is_scored else setup.on
    words = [*setup.flags, *overrides_of(name, search.space, trial.point), f"seed={seed}"]
    if is_scored:
        return Job(tuple(words), folder / "scored" / f"seed-{seed}")
    place = folder / "trials" / f"{trial.name}-seed-{seed}"
    return Job((*words, setup.held_out), place, (search.sealed,))


def _run_jobs(
    search: Search, jobs: Sequence[tuple[Trial, int, Job]], folder: Path, at_a_time: int
) -> None:
    """Run these, and put down what each gave."""
    search.write(folder)
    keyed = [((trial, seed), job) for trial, seed, job in jobs]
    for (trial, seed), ended in run_all(keyed, at_a_time):
        trial.take(seed, ended)
        print(printable(line(trial, seed)), flush=True)
        search.write(folder)
