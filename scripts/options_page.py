"""Write docs/options.md, every option in a line, and the table of options in README.md.

python scripts/options_page.py

The lines are the first comment of an option's file, and facts of a method's class. A test checks
that both are what this writes for the options on the page: one of your own turns no test red.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from perdure.config.build import locate
from perdure.config.folder import CONF, options

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "options.md"
README = ROOT / "README.md"
GROUPS = {
    "model": "Methods",
    "addon": "Add-ons, around any method that draws from the buffer",
    "dataset": "Benchmarks",
    "source": "Sources of data",
    "scenario": "Scenarios",
    "transform": "Transforms",
    "buffer": "Buffers",
    "backbone": "Backbones",
    "head": "Heads",
    "optimizer": "Optimizers",
    "scheduler": "Learning-rate schedules",
    "training": "Training",
    "tracking": "Tracking",
    "search": "Searches of hyperparameters",
    "debug": "Debugging",
}
"""Groups and their headings, in the order of the page."""

SUMMARY = {
    "model": ("er", "derpp", "er-ace", "agem", "icarl", "lwf", "ewc-online", "si", "packnet"),
    "addon": (),
    "dataset": (),
    "scenario": (),
    "buffer": ("reservoir", "class-balanced", "herding", "ring-task", "loss-aware", "gss"),
    "backbone": (),
    "head": (),
    "optimizer": (),
    "scheduler": (),
}
"""Groups of the README's table, and which options it names of one with many; else it names all."""
TABLE = re.compile(r"^\| group \| options \|\n(?:\|.*\n)+", re.M)

HEAD = """\
# Options

Written by `python scripts/options_page.py` from the files below `conf/`. `group=option` chooses
one; `python train.py --help` lists those of your installation, with your own, and
`python train.py --cfg job` every key with its value.
"""
_METHODS = """\
*Buffer* says whether a method keeps examples. *Shards*: its batches can be split over processes
(`torchrun`, `training.shards`). *FSDP*: `training.parallel=fsdp` goes with it. A loss that is no
mean over examples cannot be split; a method that computes with the weights themselves needs them
whole.
"""


def page(names: Mapping[str, Sequence[str]]) -> str:
    """The page in Markdown, with the options `names` of each group."""
    parts = [HEAD]
    for group, heading in GROUPS.items():
        if not names.get(group):
            continue
        columns = ["`" + group + "=`", "what it is"]
        if group == "model":
            columns += ["buffer", "shards", "FSDP"]
        rows = [_row(group, name) for name in names[group]]
        table = [_line(columns), _line(["---"] * len(columns)), *rows]
        note = [_METHODS] if group == "model" else []
        parts.append("\n".join([f"## {heading}", "", *note, *table, ""]))
    return "\n".join(parts)


def summary(names: Mapping[str, Sequence[str]]) -> str:
    """The README's table: how many options each group has, and their names, or some of them."""
    rows = [_line(("group", "options")), _line(("---", "---"))]
    for group, examples in SUMMARY.items():
        shown = " ".join(f"`{name}`" for name in examples or names[group])
        more = f" and {len(names[group]) - len(examples)} more" if examples else ""
        rows.append(_line((group, shown + more)))
    return "\n".join([*rows, ""])


def listed(text: str) -> dict[str, list[str]]:
    """The options that a page lists, by group."""
    found = {}
    for group in GROUPS:
        table = re.search(rf"^\| `{group}=` \|.*\n\| --- .*\n((?:\|.*\n)+)", text, re.M)
        found[group] = re.findall(r"^\| `([^`]+)` \|", table[1], re.M) if table else []
    return found


def _row(group: str, name: str) -> str:
    text = (CONF / group / f"{name}.yaml").read_text()
    cells = [f"`{name}`", _what(text)]
    if group == "model":
        target: Any = yaml.safe_load(text)["_target_"]
        method: Any = locate(target, "model")
        facts = (
            bool(method.replays) or method.keeps_exemplars,
            method.additive,
            not method.needs_full_parameters,
        )
        cells += ["yes" if fact else "no" for fact in facts]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _what(text: str) -> str:
    """The first sentence of an option's first comment, a package directive aside; or its class."""
    block = re.search(r"^# (?!@package)(.+(?:\n# .+)*)", text, re.M)
    if block is None:
        return f"`{yaml.safe_load(text)['_target_']}`"
    lines = block[1].split("\n# ")
    ends = [i for i, line in enumerate(lines, 1) if line.endswith(".")]
    words = " ".join(lines[: ends[0] if ends else None])
    sentence = re.split(r"(?<=\w\w\.) (?=[A-Z])|(?<=\)\.) ", words)[0]
    return sentence.removesuffix(".").replace("|", "\\|")


if __name__ == "__main__":
    every = {group: options(group) for group in GROUPS}
    PAGE.write_text(page(every))
    README.write_text(TABLE.sub(lambda _: summary(every), README.read_text()))
    print(f"written: {PAGE}, and the table in {README}")
