"""Benchmark: speed of training and evaluation, against a loop as usually written in PyTorch.

python scripts/benchmark.py                             both loops in turn, in one process
python scripts/benchmark.py --model derpp --avalanche
python scripts/benchmark.py --bare                      a step against the bare one of its network
python scripts/benchmark.py --plain --runs 5            whole runs against a loop without framework
python scripts/benchmark.py --growth                    the exponent of each cost that can grow
python scripts/benchmark.py --phases                    whole `python train.py` runs, by phase
python scripts/benchmark.py --phases seq-mnist perm-mnist --runs 5
python scripts/benchmark.py --cost-of tracking=wandb tracking.wandb.mode=offline

All times are CPU seconds on one thread. The loops train on the same task in turn, a chunk of steps
each, so that whatever else the machine does meets all alike; a ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import reference_loop
import torch
from growth import growth, growth_table
from plain_loop import BareStep
from torch import Tensor
from whole_runs import (
    against_plain,
    paired,
    paired_table,
    phases_table,
    plain_table,
    spread,
    whole_runs,
)

from perdure.analysis.tables import markdown_table as table
from perdure.config.build import build
from perdure.config.compose import compose
from perdure.config.schema import Config
from perdure.config.typed import typed
from perdure.datasets.arrays import Split
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.run.assemble import make_benchmark, make_trainer
from perdure.tracking.events import Recorder, StepLog
from perdure.training.evaluation import Evaluator
from perdure.training.trainer import Trainer

TARGETS = {"training": 2.8, "evaluation": 20.0}
"""How many times faster than the reference loop the package is meant to be."""


class Steps(Protocol):
    """What takes training steps."""

    def train(self, steps: int) -> None:
        """Run `steps` training steps."""
        ...


class Loop(Steps, Protocol):
    """A training loop that the package is measured against."""

    def evaluate(self) -> Any:
        """Evaluate on the whole test set of the task."""
        ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that `arguments` choose, and print the result."""
    options = _options(arguments)
    if options.cost_of:
        report = paired("seq-mnist", options.model, options.runs, options.cost_of)
        shown = paired_table(report)
    elif options.plain:
        report = against_plain(options.model, options.runs)
        shown = plain_table(report)
    elif options.growth:
        report = {"growth": growth(options.runs)}
        shown = growth_table(report["growth"])
    elif options.bare:
        report = compare_bare(options.model, options.rounds, options.steps)
        shown = bare_table(report)
    elif options.phases is not None:
        report = whole_runs(options.phases or ["seq-mnist"], options.model, options.runs)
        shown = phases_table(report)
    else:
        report = compare(options.model, options.rounds, options.steps, _with_avalanche(options))
        shown = comparison_table(report)
    print(shown)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("er", "derpp"), default="er")
    parser.add_argument("--rounds", type=_positive, default=30, help="turns of each loop")
    parser.add_argument("--steps", type=_positive, default=100, help="training steps a turn")
    parser.add_argument("--avalanche", action="store_true", help="also against Avalanche (er only)")
    parser.add_argument("--bare", action="store_true", help="a step against the bare one")
    parser.add_argument("--growth", action="store_true", help="how costs grow with the work")
    parser.add_argument(
        "--plain", action="store_true", help="whole runs on seq-mnist against a plain loop's"
    )
    parser.add_argument(
        "--phases", nargs="*", metavar="DATASET", help="measure whole runs (default: seq-mnist)"
    )
    parser.add_argument(
        "--cost-of", nargs="+", metavar="OVERRIDE", help="whole runs on seq-mnist with and without"
    )
    parser.add_argument("--runs", type=_positive, default=3, help="whole runs of each data set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


def _with_avalanche(options: argparse.Namespace) -> bool:
    if options.avalanche and options.model != "er":
        print("avalanche: left out, it is measured with er only")
        return False
    if options.avalanche and importlib.util.find_spec("avalanche") is None:
        print("avalanche: left out, it is not installed")
        return False
    return bool(options.avalanche)


class Turns(Recorder):
    """Lets other loops have a turn whenever a trainer logs a step, and times them all.

    So what is measured is the trainer's own loop, with nothing in it that a run does not have. The
    first turn warms up and is not kept.
    """

    def __init__(self, steps: int, others: Mapping[str, Steps]) -> None:
        super().__init__()
        self.steps = steps
        self.others = others
        self.seconds: dict[str, list[float]] = {name: [] for name in ("perdure", *others)}
        """CPU seconds of each loop's turns."""
        self._since = time.process_time()

    def on_step_log(self, event: StepLog) -> None:
        """The trainer has done its steps; now the others."""
        spent = {"perdure": time.process_time() - self._since}
        for name, loop in self.others.items():
            spent[name] = cpu_seconds(partial(loop.train, self.steps))
        if event.global_step > self.steps:
            for name, seconds in spent.items():
                self.seconds[name].append(seconds)
        self._since = time.process_time()


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process that `work` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(model: str, rounds: int, steps: int, avalanche: bool = False) -> dict[str, Any]:
    """Train and evaluate `model` on the first task of seq-mnist, all loops in turn."""
    config = _config(model, rounds + 1, steps)
    benchmark = make_benchmark(config, torch.device("cpu"))
    others = _others(config, benchmark, (rounds + 1, steps) if avalanche else None)
    turns = Turns(steps, others)
    trainer = make_trainer(config, recorders=[turns])
    trainer.fit()
    training = {name: [spent / steps for spent in each] for name, each in turns.seconds.items()}
    evaluation = _evaluations(config, trainer, others, rounds)
    return {
        "model": model,
        "buffer_size": config.buffer["size"],
        "batch_size": config.dataset.batch_size,
        "rounds": rounds,
        "steps": steps,
        "test_images": len(trainer.benchmark.evaluation(0)),
        "reference_images": reference_loop.IMAGES,
        "load": os.getloadavg()[0],
        "targets": TARGETS,
        "training": against(training),
        "evaluation": against(evaluation),
    }


def compare_bare(model: str, rounds: int, steps: int) -> dict[str, Any]:
    """Train `model` on the first task of seq-mnist, and the bare step in turn."""
    config = _config(model, rounds + 1, steps)
    turns = Turns(steps, {"bare": BareStep(model)})
    make_trainer(config, recorders=[turns]).fit()
    ours, bare = turns.seconds["perdure"], turns.seconds["bare"]
    return {
        "model": model,
        "perdure": spread([spent / steps for spent in ours]),
        "bare": spread([spent / steps for spent in bare]),
        "ratio": spread([a / b for a, b in zip(ours, bare, strict=True)]),
    }


def bare_table(report: dict[str, Any]) -> str:
    """The report of `compare_bare` as a table."""
    rows: list[Sequence[str]] = [(f"{report['model']}, one thread", "min", "median", "max")]
    for name in ("perdure", "bare"):
        micros = [f"{report[name][key] * 1e6:,.0f} µs" for key in ("min", "median", "max")]
        rows.append((f"a step, {name}", *micros))
    rows.append(("ratio", *(f"{report['ratio'][key]:.2f}" for key in ("min", "median", "max"))))
    return table(rows)


def _config(model: str, turns: int, steps: int) -> Config:
    """The configuration of a run of so many turns on the first task."""
    chosen = (f"model={model}", "dataset=seq-mnist", "device=cpu", "threads=1")
    length = ("dataset.stop_after=1", f"dataset.iterations={turns * steps}")
    seen = (f"training.log_every={steps}", "tracking.console=off")
    return typed(compose(*chosen, *length, *seen))


def _others(
    config: Config, benchmark: Scenario, avalanche: tuple[int, int] | None
) -> dict[str, Loop]:
    """The other loops, on the same data with the same hyperparameters."""

    def gray(part: Split) -> tuple[Tensor, Tensor]:
        return part.x[:, 0], part.y

    data = (gray(benchmark.train(0)), gray(benchmark.evaluation(0)))
    numbers = (config.dataset.batch_size, config.optimizer["lr"], config.buffer["size"])
    first, model = Classes.of(benchmark.classes(0)), config.model
    dark = (model["alpha"], model["beta"]) if "beta" in model else None
    others: dict[str, Loop] = {
        "reference": reference_loop.ReferenceLoop(
            *data, *numbers, range(first.start, first.stop), dark
        )
    }
    if avalanche is not None:
        from avalanche_loop import AvalancheLoop

        others["avalanche"] = AvalancheLoop(*data, *numbers, *avalanche)
    return others


def _evaluations(
    config: Config, trainer: Trainer, others: dict[str, Loop], rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of evaluating the first task's test set, after a first time that warms up."""
    benchmark = trainer.benchmark
    transform = build(config.dataset.transform, "dataset.transform")
    evaluator = Evaluator(trainer.method, benchmark, transform, trainer.settings.eval_batch_size)

    def ours() -> list[int]:
        counts = evaluator.count([0], benchmark.classes(0)).on_host()
        return [int(n) for n in counts.correct.values()]

    loops = {"perdure": ours, **{name: loop.evaluate for name, loop in others.items()}}
    turns = [{name: cpu_seconds(work) for name, work in loops.items()} for _ in range(rounds + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in loops}


def against(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Each loop's median seconds, and round by round how often the package's go into them."""
    ours = seconds["perdure"]
    return {
        name: {
            "seconds": median(each),
            "ratio": spread([other / own for own, other in zip(ours, each, strict=True)]),
        }
        for name, each in seconds.items()
    }


def comparison_table(report: dict[str, Any]) -> str:
    """The report of `compare` as a table."""
    training, evaluation = report["training"], report["evaluation"]
    heads = ("µs a step", "steps/s", "perdure is faster", "ms an evaluation", "perdure is faster")
    rows: list[Sequence[str]] = [("CPU time, one thread", *heads)]
    for name in training:
        step, test = training[name]["seconds"], evaluation[name]["seconds"]
        ratios = [_times(times[name]["ratio"], name) for times in (training, evaluation)]
        rates = (f"{step * 1e6:,.0f}", f"{1 / step:,.0f}", ratios[0], f"{test * 1e3:,.1f}")
        rows.append((name, *rates, ratios[1]))
    goals = [f"{report['targets'][phase]:g} times" for phase in ("training", "evaluation")]
    rows.append(("target against the reference", "", "", goals[0], "", goals[1]))
    head = (
        f"{report['model']} on seq-mnist's first task, buffer {report['buffer_size']}, batch "
        f"{report['batch_size']}; {report['rounds']} rounds of {report['steps']} steps, "
        f"{report['test_images']:,} test images; the reference reads {report['reference_images']}; "
        f"load {report['load']:.1f} on {os.cpu_count()} cores"
    )
    return f"{head}\n{table(rows)}"


def _times(ratio: dict[str, float], name: str) -> str:
    if name == "perdure":
        return ""
    return f"{ratio['median']:.2f} times ({ratio['min']:.2f}–{ratio['max']:.2f})"


if __name__ == "__main__":
    main()
