"""How fast training and evaluation are, against a loop as it is usually written in PyTorch.

python scripts/benchmark.py                             both loops in turn, in one process
python scripts/benchmark.py --phases                    whole `python train.py` runs, by phase
python scripts/benchmark.py --phases seq-mnist perm-mnist --runs 3

The figures are CPU seconds on one thread. Both loops train on the same task in turn, a chunk of
steps each, so that whatever else the machine does meets both alike; the ratio is the median over
the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import textbook
from omegaconf import OmegaConf
from processes import TRAIN, Usage, python, table
from torch import Tensor

from perdure.build import build
from perdure.datasets.arrays import Split
from perdure.notebook import compose
from perdure.run import make_trainer
from perdure.training.clock import PHASES, Clock
from perdure.training.evaluation import Evaluator
from perdure.training.state import Position
from perdure.training.trainer import Trainer

TARGETS = {"training": 2.8, "evaluation": 20.0}
IMPORTS: dict[str, tuple[str | Path, ...]] = {
    "python": ("-c", ""),
    "import numpy": ("-c", "import numpy"),
    "import torch": ("-c", "import torch"),
    "import perdure.run": ("-c", "import perdure.run"),
    "train.py --help": (TRAIN, "--help"),
}
Rivals = dict[str, Callable[[int], Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what `arguments` ask for, and print it."""
    options = _options(arguments)
    if options.avalanche and importlib.util.find_spec("avalanche") is None:
        print("avalanche is not installed: left out")
    if options.phases is None:
        report = compare(options.model, options.rounds, options.steps)
        print(comparison_table(report))
    else:
        report = whole_runs(options.phases or ["seq-mnist"], options.model, options.runs)
        print(phases_table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("er", "derpp"), default="er")
    parser.add_argument("--rounds", type=_positive, default=30, help="turns of each loop")
    parser.add_argument("--steps", type=_positive, default=100, help="training steps a turn")
    parser.add_argument(
        "--phases", nargs="*", metavar="DATASET", help="measure whole runs (default: seq-mnist)"
    )
    parser.add_argument("--runs", type=_positive, default=3, help="whole runs of each data set")
    parser.add_argument("--avalanche", action="store_true", help="also against Avalanche")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


# --- both loops in turn ---------------------------------------------------------------------------


class Turns:
    """Lets other loops have a turn after every `steps` steps of a trainer, and times them all.

    Takes the place of the trainer's checkpoint keeper, which is asked at each step boundary: so
    what is measured is the trainer's own loop, with nothing in it that a run does not have. The
    first turn warms up and is not kept.
    """

    def __init__(self, steps: int, rivals: Rivals) -> None:
        self.steps = steps
        self.rivals = rivals
        self.seconds: dict[str, list[float]] = {name: [] for name in ("perdure", *rivals)}
        """CPU seconds of each loop's turns."""
        self._since = time.process_time()

    def due(self, position: Position) -> bool:
        if position.global_step % self.steps == 0:
            spent = {"perdure": time.process_time() - self._since}
            for name, train in self.rivals.items():
                spent[name] = cpu_seconds(partial(train, self.steps))
            if position.global_step > self.steps:
                for name, seconds in spent.items():
                    self.seconds[name].append(seconds)
            self._since = time.process_time()
        return False

    def save(self, state: dict[str, Any], position: Position, task: int | None) -> None:
        return None

    def finish(self) -> None:
        return None


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(model: str, rounds: int, steps: int) -> dict[str, Any]:
    """Train and evaluate `model` on the first task of seq-mnist, the two loops in turn."""
    # The trainer does not ask at a task's last step, hence one more.
    n_steps = (rounds + 1) * steps + 1
    plain, trainer = _trainer(model, n_steps)
    rival = _textbook(plain, trainer)
    turns = Turns(steps, {"textbook": rival.train})
    trainer.checkpoints = turns
    trainer.fit()
    training = {name: [seconds / steps for seconds in each] for name, each in turns.seconds.items()}
    return {
        "model": model,
        "buffer_size": plain["buffer"]["size"],
        "batch_size": plain["dataset"]["batch_size"],
        "rounds": rounds,
        "steps": steps,
        "test_images": len(trainer.benchmark.evaluation(0)),
        "textbook_images": textbook.IMAGES,
        "load": _load(),
        "training": against(training, TARGETS["training"]),
        "evaluation": against(_evaluations(plain, trainer, rival, rounds), TARGETS["evaluation"]),
    }


def _trainer(model: str, n_steps: int) -> tuple[dict[str, Any], Trainer]:
    config = compose(
        f"model={model}",
        "dataset=seq-mnist",
        "dataset.stop_after=1",
        f"dataset.iterations={n_steps}",
        "device=cpu",
        "threads=1",
        "tracking.console=off",
    )
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return plain, make_trainer(plain, config, None, [], [], Clock())


def _textbook(plain: dict[str, Any], trainer: Trainer) -> textbook.Textbook:
    def grey(split: Split) -> tuple[Tensor, Tensor]:
        return split.x[:, 0], split.y

    dark = (plain["model"]["alpha"], plain["model"]["beta"]) if "beta" in plain["model"] else None
    return textbook.Textbook(
        grey(trainer.benchmark.train(0)),
        grey(trainer.benchmark.evaluation(0)),
        plain["dataset"]["batch_size"],
        plain["optimizer"]["lr"],
        plain["buffer"]["size"],
        dark,
    )


def _evaluations(
    plain: dict[str, Any], trainer: Trainer, rival: textbook.Textbook, rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of evaluating the first task's test set, after a first time that warms up."""
    benchmark, classes = trainer.benchmark, trainer.benchmark.classes(0)
    transform = build(plain["dataset"]["transform"], "dataset.transform")
    evaluator = Evaluator(trainer.method, benchmark, transform, trainer.settings.eval_batch_size)

    def ours() -> list[int]:
        ((correct, _),) = evaluator.count([0], classes).values()
        return [int(n) for n in correct.values()]

    loops = {"perdure": ours, "textbook": lambda: rival.evaluate(classes, classes)}
    turns = [{name: cpu_seconds(work) for name, work in loops.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in loops}


def against(seconds: dict[str, list[float]], target: float) -> dict[str, Any]:
    """How many times faster than the textbook: from each loop's seconds, round by round."""
    ratios = [
        theirs / ours for ours, theirs in zip(seconds["perdure"], seconds["textbook"], strict=True)
    ]
    medians = {name: median(each) for name, each in seconds.items()}
    return {"target": target, "ratio": spread(ratios), "seconds": medians}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Least, median and greatest."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def comparison_table(report: dict[str, Any]) -> str:
    """What `compare` gives, for a person."""
    training, evaluation = report["training"], report["evaluation"]
    rows: list[Sequence[str]] = [
        ("CPU time, one thread", "textbook", "perdure", "times faster (min–max)", "target")
    ]
    steps = training["seconds"]
    for what, figures, show in (
        ("training, µs a step", training, lambda s: f"{s * 1e6:,.0f}"),
        ("evaluation of a task, ms", evaluation, lambda s: f"{s * 1e3:,.1f}"),
    ):
        seconds, ratio = figures["seconds"], figures["ratio"]
        times = f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
        cells = [show(seconds[name]) for name in ("textbook", "perdure")]
        rows.append((what, *cells, times, f"{figures['target']:g}"))
    rates = [f"{1 / steps[name]:,.0f}" for name in ("textbook", "perdure")]
    rows.insert(2, ("training, steps/s", *rates, "", ""))
    head = (
        f"{report['model']} on seq-mnist's first task, buffer {report['buffer_size']}, batch "
        f"{report['batch_size']}; {report['rounds']} rounds of {report['steps']} steps, "
        f"{report['test_images']:,} test images; the textbook reads {report['textbook_images']}; "
        f"load {report['load']:.1f} on {os.cpu_count()} cores"
    )
    return f"{head}\n{table(rows)}"


# --- whole runs -----------------------------------------------------------------------------------


def whole_runs(datasets: Sequence[str], model: str, runs: int) -> dict[str, Any]:
    """CPU seconds of `python train.py` by phase, and of its imports alone, `runs` times each."""
    load = _load()
    report: dict[str, Any] = {"model": model, "runs": runs, "phases": {}, "load": load}
    report["imports"] = {
        name: spread([python(*arguments).cpu_seconds for _ in range(runs)])
        for name, arguments in IMPORTS.items()
    }
    for dataset in datasets:
        measured = [_whole_run(model, dataset) for _ in range(runs)]
        report["phases"][dataset] = {key: spread([m[key] for m in measured]) for key in measured[0]}
    return report


def _whole_run(model: str, dataset: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        overrides = [f"model={model}", f"dataset={dataset}", "device=cpu"]
        used = python(TRAIN, *overrides, f"hydra.run.dir={folder}", log=Path(name) / "log")
        if used.status != 0:
            raise SystemExit(f"train.py failed:\n{(Path(name) / 'log').read_text()}")
        return split(json.loads((folder / "results.json").read_text()), used)


def split(results: dict[str, Any], used: Usage) -> dict[str, float]:
    """CPU seconds by phase; what the run itself could not count (its end) is `rest`."""
    phases = {phase: results["cpu_seconds"][phase] for phase in PHASES}
    rest = used.cpu_seconds - sum(phases.values())
    whole = asdict(used)
    return {**phases, "rest": rest, **{k: whole[k] for k in ("cpu_seconds", "wall_seconds")}}


def phases_table(report: dict[str, Any]) -> str:
    """What `whole_runs` gives, for a person."""
    rows: list[Sequence[str]] = [("CPU s, one thread", "min", "median", "max")]
    for dataset, phases in report["phases"].items():
        for phase, figures in phases.items():
            label = {"cpu_seconds": "whole process", "wall_seconds": "wall clock"}.get(phase, phase)
            rows.append((f"{report['model']} on {dataset}: {label}", *_cells(figures)))
    rows += [(name, *_cells(figures)) for name, figures in report["imports"].items()]
    head = f"{report['runs']} runs; load {report['load']:.1f} on {os.cpu_count()} cores"
    return f"{head}\n{table(rows)}"


def _cells(figures: dict[str, float]) -> tuple[str, ...]:
    return tuple(f"{figures[key]:.2f}" for key in ("min", "median", "max"))


def _load() -> float:
    return os.getloadavg()[0]


if __name__ == "__main__":
    main()
