"""Where the configuration files are that come with Perdure, and the options they offer."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[3] / "conf"
"""The folder of configuration groups."""

SHARED = "base"
"""The file of a group that its options start from, and that is no option itself."""


def options(group: str) -> list[str]:
    """The options of a group, by name."""
    return sorted({path.stem for path in (CONF / group).glob("*.yaml")} - {SHARED})
