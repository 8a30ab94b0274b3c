"""Imports go down only: the floors of docs/design.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "perdure"
FLOORS: dict[str, int] = {
    "errors": 0,
    "redaction": 0,
    "config": 0,
    "distributed": 0,
    "rendezvous": 0,
    "ranks": 0,
    "shards": 0,
    "randomness": 0,
    "build": 0,
    "recipes": 0,
    "manual": 1,
    "disk": 0,
    "download": 0,
    "web": 0,
    "datasets": 1,
    "backbones": 1,
    "metrics": 1,
    "tracking": 1,
    "optim": 1,
    "fisher": 1,
    "buffers": 2,
    "models": 3,
    "training": 4,
    "checkpoint": 5,
    "run": 6,
    "resume": 6,
    "going_on": 6,
    "parallel": 6,
    "preemption": 0,
    "notebook": 6,
    "recorders": 6,
    "sync": 6,
    "composition": 6,
    "wording": 6,
    "sweeps": 6,
    "launch": 6,
}
GROUND = {"errors", "config", "distributed", "randomness", "build", "recipes"}


def module_of(path: Path) -> str:
    return ".".join(("perdure", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


def imports_of(path: Path) -> set[str]:
    """Modules of this package that `path` imports, at the top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.startswith("perdure.")}


FILES = sorted(SOURCE.rglob("*.py"))


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(SOURCE)) for p in FILES])
def test_imports_go_down(path: Path) -> None:
    module = module_of(path)
    if module == "perdure":
        return
    here = FLOORS[part(module)]
    for name in imports_of(path):
        if part(name) in FLOORS:
            assert FLOORS[part(name)] <= here, f"{module} imports {name}"


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        names = imports_of(path)
        modules = {module_of(p) for p in FILES}
        graph[module_of(path)] = {n for n in names if n in modules} - {module_of(path)}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join((*above, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_part_has_a_floor() -> None:
    parts = {part(module_of(p)) for p in FILES if module_of(p) != "perdure"}
    assert parts == set(FLOORS)


def test_files_are_short() -> None:
    long = {
        str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long
