"""The user's own Python files that a run has used, for the snapshot of its code.

They are the modules of the classes that the configuration names (`_target_`), and what was
imported from the same folder on Python's path. Of an installed package only its own modules count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.config.trust import nodes

MOST_FILES = 300
MOST_BYTES = 3_000_000
_OURS = {"perdure", "hydra_plugins", "torch"}
_INSTALLED = {"site-packages", "dist-packages"}


def used_modules(config: Mapping[str, Any]) -> tuple[dict[str, Path], list[str]]:
    """Where each file lies, by its path from its folder on Python's path; what was left out.

    Args:
        config: the configuration of a run whose objects are built, plain.
    """
    named = {str(node["_target_"]).rpartition(".")[0] for _, node in nodes(config)}
    named = {name for name in named if not _is_foreign(name)}
    found: dict[str, Path] = {}
    left_out = []
    for name in sorted(named):
        if (place := _place(name)) is None:
            continue
        path, root = place
        beside = dict(_beside(name, root))
        if len(beside) > MOST_FILES or sum(map(_size, beside.values())) > MOST_BYTES:
            left_out.append(f"what {name} has imported from beside it (too much)")
            beside = {}
        found |= {str(path.relative_to(root)): path, **beside}
    return found, left_out


def _is_foreign(name: str) -> bool:
    top = name.partition(".")[0]
    return top in _OURS or (top in sys.stdlib_module_names and top != "__main__")


def _place(name: str) -> tuple[Path, Path] | None:
    """The source file of an imported module, and the folder on Python's path in which it lies."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(sys.modules.get(name), ModuleType) or not str(file).endswith(".py"):
        return None
    path = Path(str(file)).absolute()
    parts = name.split(".")
    own = (*path.parent.parts, path.stem) if path.stem != "__init__" else path.parent.parts
    if name == "__main__":
        return path, path.parent
    if list(own[-len(parts) :]) != parts:
        return None  # loaded in a way of its own
    return path, Path(*own[: -len(parts)])


def _beside(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The modules that were imported from `root`, of `name`'s package alone where pip installs."""
    top = name.partition(".")[0]
    is_installed = root.name in _INSTALLED or any(root.glob("*.dist-info"))
    for other in list(sys.modules):
        if _is_foreign(other) or (is_installed and other.partition(".")[0] != top):
            continue
        place = _place(other)
        if place is not None and place[1] == root:
            yield str(place[0].relative_to(root)), place[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
