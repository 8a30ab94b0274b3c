"""Write docs/reliability.md: each fault, how it ends, and the tests that produce it.

python scripts/reliability.py

The table is docs/reliability.yaml. A test checks that the page is current and the tests exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[1] / "docs"
TABLE = DOCS / "reliability.yaml"
PAGE = DOCS / "reliability.md"
HEAD = """\
# Reliability: faults, and how they end

Written by `python scripts/reliability.py` from `docs/reliability.yaml`; change that table.
Each fault is produced by the tests beside it, {n_tests} in all. To run one, the exhaustive ones
included: `python -m pytest -m "" TEST`. Random kills beyond the tests: `python
scripts/crash_test.py --kills 200`.
"""


def read_table() -> list[dict[str, Any]]:
    """Sections: a heading, and faults with their outcome and tests."""
    sections: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text())
    return sections


def tests_of(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every node id of the table, once."""
    found = (test for part in sections for fault in part["faults"] for test in fault["tests"])
    return list(dict.fromkeys(found))


def page(sections: Sequence[Mapping[str, Any]]) -> str:
    """The page in Markdown."""
    parts = [HEAD.format(n_tests=len(tests_of(sections)))]
    for section in sections:
        rows = [
            f"| {_cell(fault['fault'])} | {_cell(fault['outcome'])} | "
            f"{'<br>'.join(f'`{test}`' for test in fault['tests'])} |"
            for fault in section["faults"]
        ]
        head = ["| fault | outcome | tests |", "| --- | --- | --- |"]
        parts.append("\n".join([f"## {section['heading']}", "", *head, *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(read_table()))
