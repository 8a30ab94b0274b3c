"""The folder `conf/` (in the checkout, or in the wheel), and the options of its groups.

They lie in its checkout, or in its wheel.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

# The package's own comes first: beside an installed package there may be anybody's conf/.
CHECKOUT = None if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]
"""The checkout from which Perdure runs; None where it was installed from a wheel."""

CONF = (_PACKAGE if CHECKOUT is None else CHECKOUT) / "conf"
"""The folder of configuration groups."""

SHARED = "base"
"""The file of a group that its options start from, and that is no option itself."""


def options(group: str) -> list[str]:
    """The options of a group, by name."""
    return sorted({path.stem for path in (CONF / group).glob("*.yaml")} - {SHARED})
