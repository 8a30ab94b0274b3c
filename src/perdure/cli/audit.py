"""Audit a method on a benchmark: leaks, hidden memory, inexact resume, claims that do not hold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from perdure.cli.main import explained, worded_exit, words_of
from perdure.config.overrides import parse
from perdure.errors import UserError, printable

_WORDS = """\
The method is trained on a few examples of the benchmark's first tasks, again and again.

checks:
  test batches       predictions do not change when the test set is shuffled, rebatched or cut
  task identity      predictions do not tell one task's examples by when or where they come
  future classes     the later tasks do not matter before they come
  number of tasks    nor does how many there are
  number of classes  the method's code does not read it, unless it declares needs_n_classes
  test set           other test examples give the same weights
  memory             the buffer keeps to its capacity and to what was offered; nothing else does
  frozen parts       what frozen_state names keeps its bits
  pure loss          loss writes no state
  base method        with zero strength it is its base method, to the bit; else it is not
  measuring          measuring more often changes nothing
  resume             runs resumed at random places end with the same bits
  batch parts        a batch in two parts gives the same up to rounding
  world size         two processes end with the bits of one, where batches can be split

examples:
  perdure audit model=icarl dataset=seq-mnist
  perdure audit model=er dataset=seq-cifar10 backbone=reduced-resnet18
  perdure audit --config-dir=myconf model=mine --json audit.json

exit status: 0 when no check fails, 1 when one does, 2 when the audit cannot be made
"""


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="perdure audit",
        description=__doc__,
        epilog=_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as of perdure train")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="configuration of your own")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help='these checks, as "test set"')
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the outcomes there")
    options = parser.parse_intermixed_args(arguments)
    words = words_of(options.words, options.config_dir)
    with explained(words):
        return _audit(words, options.only or (), options.json)


def _audit(words: Sequence[str], only: Sequence[str], file: Path | None) -> int:
    from perdure.audit.audit import CHECKS, WORLD_SIZE, audit_of  # torch is imported only now
    from perdure.audit.outcome import has_failed

    names = (*CHECKS, WORLD_SIZE)
    for name in only:
        if name not in names:
            raise UserError(f"--only {name!r}: there is no such check; must be {', '.join(names)}")
    for word in words:
        if not word.startswith("-") and parse(word).is_sweep:
            raise UserError(f"{word}: an audit is of one configuration; give one value")
    audit = audit_of(words)
    print(printable(audit.title))
    width = max(map(len, names))
    outcomes = []
    for outcome in audit.outcomes(only):
        outcomes.append(outcome)
        print(printable(f"  {outcome.check:{width}}  {outcome.status:14}  {outcome.detail}"))
    failed = [outcome.check for outcome in outcomes if has_failed([outcome])]
    print(f"failed: {', '.join(failed)}" if failed else "no check failed")
    if file is not None:
        rows = [asdict(outcome) for outcome in outcomes]
        file.write_text(json.dumps({"audit": audit.title, "checks": rows}, indent=2) + "\n")
    return int(bool(failed))
