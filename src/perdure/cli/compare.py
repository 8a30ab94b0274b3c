"""Does A beat B? Runs paired over seed and class order: difference, interval, test, effect size.

An arm is a condition on the runs of --in (`model=derpp`; several with commas between them), or a
folder or glob. The first arm is compared with every other one. Each comparison is said in a
sentence, with what a claim would still need where there is none.
"""

from __future__ import annotations

import argparse
import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perdure.analysis.arms import Arm, compare
from perdure.analysis.comparison import notes_of, table_of
from perdure.analysis.recorded import families, with_recorded
from perdure.analysis.runs import REMOTE, read, selected
from perdure.analysis.statistics import LEVEL, TESTS
from perdure.analysis.tables import FORMATS
from perdure.cli.main import explained, worded_exit
from perdure.cli.summarize import level, listed
from perdure.errors import UserError, printable

_EXAMPLES = """\
examples:
  perdure compare model=derpp model=er --in outputs/my-sweep
  perdure compare outputs/a outputs/b
  perdure compare model=derpp model=er model=sgd --in 'outputs/2026*' --where buffer.size=500
  perdure compare model=derpp,model.alpha=0.5 model=er --in outputs/my-sweep --test wilcoxon
  perdure compare model=er model=si model=lwf --in outputs/my-sweep --pairs --format latex

exit status: 0, or 2 for a mistake in the command
"""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the arms that `arguments` name; returns the exit status."""
    options = _options(arguments)
    with explained([]):
        arms = arms_of(options.arms, options.places, listed(options.where))
        metrics = listed(options.metric)
        names = families(metrics)
        arms = [replace(arm, runs=with_recorded(arm.runs, names)) for arm in arms]
        found = compare(arms, metrics, options.test, options.level, options.pairs)
        notes = [*notes_of(found), *_unfinished(arms)]
    table = table_of(found, notes)
    if options.format == "markdown":
        print(*(printable(comparison.sentence()) + "." for comparison in found), sep="\n")
        print()
    print(table.text(options.format))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="perdure compare",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("arms", nargs="+", metavar="ARM", help="KEY=VALUE, or a folder or glob")
    add("--in", nargs="+", default=[], metavar="FOLDER", dest="places", help="where the runs are")
    add("--where", nargs="+", default=[], metavar="KEY=VALUE", help="only these runs")
    add("--metric", nargs="+", metavar="NAME", help="average accuracy, class-IL first, if not set")
    add("--pairs", action="store_true", help="compare every arm with every other one")
    add("--test", choices=TESTS, default="sign-flip", help="of paired differences (sign-flip)")
    add("--level", type=level, default=LEVEL, help=f"of claims, over all of them ({LEVEL:g})")
    add("--format", choices=FORMATS, default="markdown", help="of what is printed (markdown)")
    return parser.parse_intermixed_args(arguments)


def arms_of(words: Sequence[str], places: Sequence[str], where: Sequence[str]) -> list[Arm]:
    """The arms that the command names.

    Args:
        words: conditions, or places.
        places: where the runs are that conditions choose from.
        where: conditions on the runs of every arm.

    Raises:
        UserError: they are fewer than two, of both kinds, alike, or have no runs.
    """
    are_places = [_is_place(word) for word in words]
    if len(set(words)) < max(2, len(words)):
        raise UserError(f"{' '.join(words)}: must be two different arms or more")
    if any(are_places) and not all(are_places):
        raise UserError(f"{' '.join(words)}: must be all conditions, key=value, or all folders")
    if all(are_places):
        if places:
            raise UserError("--in: the arms are folders already; must be left out")
        called = [_called(word) for word in words]
        names = words if len(set(called)) < len(words) else called
        return [
            Arm(name, selected(read([word]), where))
            for name, word in zip(names, words, strict=True)
        ]
    if not places:
        raise UserError("--in: is not set; must be the folders in which the runs are")
    runs = selected(read(places), where)
    conditions = [listed([word]) for word in words]
    keys = [tuple(each.partition("=")[0] for each in found) for found in conditions]
    # Methods are called by their names alone.
    is_short = set(keys) == {("model",)}
    names = [word.partition("=")[2] if is_short else word for word in words]
    return [
        Arm(name, selected(runs, found), its)
        for name, found, its in zip(names, conditions, keys, strict=True)
    ]


def _is_place(word: str) -> bool:
    return (
        "=" not in word or word.startswith(REMOTE) or Path(word).exists() or bool(glob.glob(word))
    )


def _called(place: str) -> str:
    """The name of a folder in sentences: its last part, but for a number, which says nothing."""
    name = Path(place).name
    return place if not name or name.isdecimal() or glob.has_magic(name) else name


def _unfinished(arms: Sequence[Arm]) -> list[str]:
    left = {arm.name: [run for run in arm.runs if not run.is_finished] for arm in arms}
    return [
        f"{len(runs)} run{'' if len(runs) == 1 else 's'} of {name} not finished, left out."
        for name, runs in left.items()
        if runs
    ]
