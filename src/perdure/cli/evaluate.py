"""Measure a checkpoint without training: accuracy by task and class, confusions, calibration."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from perdure.cli.main import exit_run, worded_exit
from perdure.config import compose, error_messages
from perdure.config.build import import_from_here
from perdure.config.overrides import Arguments, parse, readable
from perdure.errors import PerdureError, UserError, printable
from perdure.io.redaction import ADDRESSES
from perdure.tracking.formatting import TextTable, percent, scenario_name

if TYPE_CHECKING:
    from perdure.run.measurement import Request

_WORDS = """\
words:
  checkpoint=REF    a file, a run folder, latest, or https://, hf://, s3://, wandb://
  dataset=NAME      another benchmark than the checkpoint's; its classes must fit the network
  tasks=seen|all|N  those that the checkpoint has learned (default), all, or the first N;
                    weights alone do not say what they have learned: all count then
  predictions=true  also write predictions.npz: example ids, labels, predictions, scores
  KEY=VALUE         overrides, as of perdure train: device=cpu, output_root=…, model=…

examples:
  perdure evaluate checkpoint=outputs/20261122-081146
  perdure evaluate checkpoint=latest tasks=all predictions=true
  perdure evaluate checkpoint=er.pth model=er dataset=seq-mnist backbone=mlp

exit status: 0 when it is measured, 2 when it cannot be, with the reason in a sentence
"""
_OWN = ("checkpoint", "tasks", "predictions")
_MOST_SHOWN = 12
"""Classes up to which the confusion counts are printed."""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write a folder of what was found, and print it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure evaluate",
        description=__doc__,
        epilog=_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="see below")
    parser.add_argument(
        "--config-dir", "-cd", metavar="DIR", help="a folder of configuration files of your own"
    )
    options = parser.parse_intermixed_args(arguments)
    words = [readable(word) for word in ADDRESSES.command(options.words)]
    flags = [] if options.config_dir is None else ["--config-dir", options.config_dir]
    import_from_here()
    compose.register(Arguments(tuple(flags)).config_folders)
    try:
        request = _request(words, flags)
        from perdure.run.evaluate import evaluate  # torch is imported only now

        outcome = evaluate(request)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sentence = error_messages.explain(error, words)
        exit_run(sentence.replace("checkpoint.load=", "checkpoint="))
    except PerdureError as error:
        exit_run(str(error), error.exit_status)
    except OSError as error:
        exit_run(f"{error.filename}: cannot write there ({error.strerror})", 1)
    for line in _shown(outcome.results, outcome.notices):
        print(printable(line))
    print(f"written to {outcome.folder}")
    return 0


def _request(words: Sequence[str], flags: Sequence[str]) -> Request:
    """What the command line asks for.

    Raises:
        UserError: it names no checkpoint, or a value that is not accepted.
    """
    from perdure.run.measurement import ALL, SEEN, Request

    own: dict[str, str] = {}
    rest = []
    for word in words:
        key, _, text = word.partition("=")
        key = "checkpoint" if key == "checkpoint.load" else key
        if key in _OWN:
            own[key] = text.strip("'\"")
        elif key.lstrip("+~").startswith("hydra."):
            raise UserError(
                f"{word}: perdure evaluate takes checkpoint=REF, output_root=DIR and overrides of "
                "the run's own keys"
            )
        elif parse(word).is_sweep:
            raise UserError(f"{word}: perdure evaluate measures one checkpoint; give one value")
        else:
            rest.append(word)
    if not own.get("checkpoint"):
        raise UserError("checkpoint=: is not set; must be a file, a run folder, latest, or a URL")
    tasks = own.get("tasks", SEEN)
    if tasks not in (ALL, SEEN) and not tasks.isdecimal():
        raise UserError(f"tasks={tasks}: must be seen, all, or how many of the first")
    predictions = own.get("predictions", "false").lower()
    if predictions not in ("true", "false"):
        raise UserError(f"predictions={predictions}: must be true or false")
    number = int(tasks) if tasks.isdecimal() else tasks
    return Request(own["checkpoint"], (*flags, *rest), number, predictions == "true")


# --- what is printed ------------------------------------------------------------------------------


def _shown(results: dict[str, Any], notices: Sequence[str]) -> Iterator[str]:
    about = results["evaluation"]
    yield f"{results['model']} on {results['dataset']} ({results['split']} split): {about['file']}"
    for notice in notices:
        yield f"  note: {notice}"
    if about["other_benchmark"]:
        yield f"  another benchmark than was learned: {', '.join(about['other_benchmark'])}"
    names = list(results["accuracy_matrix"])
    yield from _tasks(results, names).lines()
    error = about["calibration"]["expected_calibration_error"]
    yield f"  expected calibration error of the seen tasks {percent(error)} %"
    yield from _classes(results).lines()
    confusion = results["confusion"]
    if len(confusion["classes"]) <= _MOST_SHOWN:
        yield from _confusion(confusion).lines()


def _tasks(results: dict[str, Any], names: Sequence[str]) -> TextTable:
    """A row a task, and their mean over the seen ones."""
    rows = [
        (
            f"task {row['task']}: {row['label']}" + ("" if row["seen"] else " (not seen)"),
            f"{row['examples']:,}",
            *(percent(row[name]) for name in names),
            percent(row["expected_calibration_error"]),
        )
        for row in results["evaluation"]["tasks"]
    ]
    means = [percent(results["average_accuracy"][name]) for name in names]
    rows.append(("mean of the seen tasks", "", *means, ""))
    return TextTable(("percent", "examples", *map(scenario_name, names), "ECE"), tuple(rows))


def _classes(results: dict[str, Any]) -> TextTable:
    found = results["per_class_accuracy"]
    rows = tuple((f"class {name}", percent(value)) for name, value in found.items())
    return TextTable(("percent", "accuracy"), rows)


def _confusion(confusion: dict[str, Any]) -> TextTable:
    names = [f"as {name}" for name in confusion["classes"]]
    rows = zip(confusion["classes"], confusion["counts"], strict=True)
    return TextTable(
        ("true class", *names), tuple((f"is {name}", *map(str, row)) for name, row in rows)
    )
