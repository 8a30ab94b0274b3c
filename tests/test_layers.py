"""Imports point down: the layers of docs/design.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from perdure.io import run_files

SOURCE = Path(__file__).parents[1] / "src" / "perdure"
LAYERS = (
    {"__main__", "testing", "utils"},
    {"cli"},
    {"sweeps", "audit"},
    {"analysis"},
    {"run"},
    {"wandb"},
    {"checkpoint"},
    {"training"},
    {"distributed"},
    {"models"},
    {"buffers", "datasets", "backbones", "tracking", "metrics"},
    {"config"},
    {"ranks"},
    {"io"},
    {"errors", "randomness"},
)
"""From the top to the bottom; packages of one layer do not know each other."""
HEIGHT = {part: -depth for depth, parts in enumerate(LAYERS) for part in parts}
LOOSE = {"__init__", "__main__", "errors", "randomness", "testing", "utils"}
"""Modules that lie in the package itself."""
LONGEST = 400
"""Lines of a file."""


def module_of(path: Path) -> str:
    return ".".join(("perdure", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {module_of(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules of this package that `path` imports, at the top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` depends on the module alone.
            found |= names if names <= MODULES else names | {node.module}
    return found & MODULES


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(SOURCE)) for p in FILES])
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module == "perdure":
        return  # it offers `train` and `compose`, imported on first use
    here = part(module)
    for name in imports_of(path) - {"perdure"}:
        there = part(name)
        assert there == here or HEIGHT[there] < HEIGHT[here], f"{module} imports {name}"


def test_no_circles() -> None:
    graph = {module_of(path): imports_of(path) - {module_of(path), "perdure"} for path in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join((*above, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_part_has_a_layer() -> None:
    parts = {part(module) for module in MODULES if module != "perdure"}
    assert parts <= set(HEIGHT)
    assert {path.stem for path in SOURCE.glob("*.py")} <= LOOSE


def test_files_are_short() -> None:
    lines = {str(p.relative_to(SOURCE)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}


def test_the_names_of_a_run_folder_s_files_stand_in_one_place() -> None:
    names = {value for name, value in vars(run_files).items() if name.isupper()} - {
        "code",
        ".lock",
        "figures",
        "tensorboard",
    }
    home = Path(run_files.__file__)
    literals = {
        str(path.relative_to(SOURCE)): found
        for path in FILES
        if path != home
        and (
            found := names
            & {
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant)
            }
        )
    }
    # (`code`, `.lock`, `figures` and `tensorboard` are words of other things too.)
    assert literals == {}


def test_the_tests_do_not_hide_the_client_of_wandb() -> None:
    """tests/ is on the path, so its folder wandb must be no package."""
    import wandb

    tests = Path(__file__).parent
    assert not [p for p in tests.rglob("__init__.py") if "wandb_server" not in p.parts]
    assert not Path(str(wandb.__file__)).is_relative_to(tests)
