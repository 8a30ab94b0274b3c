"""Crash test: kill runs at random instants, resume them, and compare the ends bit by bit.

python scripts/crash_test.py [--kills 200] [--methods er derpp …] [--seed 0] [--jobs 2]

For each method an undisturbed run is made, and others that are killed (SIGKILL) again and again:
while they start, train, write a checkpoint, and between the results that say "finished" and the end
of the work (figures, report, rows at W&B, retention, status). Each is started anew with
`checkpoint.resume=auto`, at last to its end. Exit status 1, and a line for each difference, if any
file of the folder but for clocks and paths is not that of the undisturbed run, or a row at W&B (a
stand-in server) is missing or there twice. The code is compared as well: leave the checkout alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash_checks import compare_folders, compare_rows
from killed_run import CASES, PLACES, PROJECT, ROOT, Case, Run

from perdure.run.folder import RunFolder


@dataclass
class Outcome:
    """What one case came to."""

    method: str
    kills: list[dict[str, Any]] = field(default_factory=list)
    n_runs: int = 0
    differences: list[str] = field(default_factory=list)


@contextmanager
def wandb_server(root: Path) -> Iterator[Any]:
    """The stand-in server of the tests."""
    sys.path.append(str(ROOT / "tests"))
    with importlib.import_module("wandb_server.server").StandIn(root / "server") as server:
        yield server


def crash_test(name: str, n_kills: int, seed: int, root: Path, server: Any) -> Outcome:
    """An undisturbed run of the case `name`, and runs with `n_kills` kills in all, compared."""
    case, chance, outcome = CASES[name], random.Random(f"{seed}/{name}"), Outcome(name)
    environment = server.env(root / f"{name}-client") if case.is_mirrored else {}

    def new(label: str, case: Case) -> Run:
        return Run(case, root / f"{name}-{label}", environment, chance)

    # One process gives what any number of them must.
    calm = new("undisturbed", Case(case.overrides, 1, case.is_mirrored))
    if failed := calm.finish():
        outcome.differences = [f"undisturbed: {line}" for line in failed]
        return outcome
    plan = aims(n_kills, chance)
    window = seconds_after_results(calm.folder)
    while plan and outcome.n_runs <= n_kills:
        run = new(f"{outcome.n_runs}", case)
        outcome.n_runs += 1
        while plan:
            kill = run.kill_at(plan[0], window)
            if not kill["killed"]:
                break  # it had ended before; what is left of the plan is for another run
            outcome.kills.append(kill)
            plan.pop(0)
        outcome.differences += [f"{run.folder.name}: {line}" for line in judge(run, calm, server)]
    return outcome


def aims(n_kills: int, chance: random.Random) -> list[str]:
    """Where to kill; at the end last, so that most of them are one run's."""
    places = [place for place, share in PLACES.items() for _ in range(share)]
    drawn = [places[3 * i % 10] for i in range(n_kills)]
    chance.shuffle(drawn)
    return sorted(drawn, key=lambda place: place == "the end")


def seconds_after_results(folder: Path) -> float:
    """How long the work took that follows the results that say "finished"."""
    files = RunFolder(folder)
    return max(0.05, files.status.stat().st_mtime - files.results.stat().st_mtime)


def judge(run: Run, calm: Run, server: Any) -> list[str]:
    """Let the run end, and compare it with the undisturbed one."""
    if failed := run.finish():
        return failed
    found = compare_folders(calm.folder, run.folder)
    if run.case.is_mirrored:
        run_id = json.loads(RunFolder(run.folder).wandb.read_text())["id"]
        found += compare_rows(run.folder, server.history(PROJECT, run_id))
        if (state := server.run(PROJECT, run_id).state) != "finished":
            found.append(f"W&B: the run is {state}")
        found += [f"W&B: {problem}" for problem in server.problems]
    return found


def table(outcomes: list[Outcome]) -> str:
    """A line a case: kills by place, and differences."""
    heads = ["case", "runs", "kills", *PLACES, "differences"]
    rows = {
        o.method: [o.n_runs, len(o.kills), *_by_place(o.kills), len(o.differences)]
        for o in outcomes
    }
    rows["in all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines = [heads, *([name, *map(str, numbers)] for name, numbers in rows.items())]
    return "\n".join(f"{line[0]:14}" + "".join(f"{x:>13}" for x in line[1:]) for line in lines)


def _by_place(kills: list[dict[str, Any]]) -> list[int]:
    counts = Counter(kill["place"] for kill in kills)
    return [counts[place] for place in PLACES]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=54, help="in all, spread over the cases")
    parser.add_argument(
        "--methods", nargs="+", default=list(CASES), choices=CASES, metavar="CASE",
        help=f"of {', '.join(CASES)}",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the record of every kill")
    parser.add_argument("--dir", type=Path, help="a new folder for the runs, which is kept")
    return parser.parse_args()


def run_all(options: argparse.Namespace, root: Path) -> list[Outcome]:
    each = -(-options.kills // len(options.methods))

    def one(name: str) -> Outcome:
        outcome = crash_test(name, each, options.seed, root, server)
        print(
            f"{name}: {len(outcome.kills)} kills, {len(outcome.differences)} differences",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return outcome

    with wandb_server(root) as server, ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(one, options.methods))


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.dir or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=options.dir is None)
        outcomes = run_all(options, root)
    if options.json:
        print(json.dumps([vars(outcome) for outcome in outcomes]))
    out = sys.stderr if options.json else sys.stdout
    print(table(outcomes), file=out)
    for outcome in outcomes:
        for line in outcome.differences:
            print(f"{outcome.method}: {line}", file=out)
    return int(any(outcome.differences for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
