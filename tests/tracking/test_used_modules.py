"""Which modules of the user's a run's copy of its code holds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.tracking import used_modules as module
from perdure.tracking.provenance import read_code
from perdure.tracking.used_modules import used_modules

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes empty or given modules into a folder on Python's path, and imports them."""
    before = set(sys.modules)

    def make(root: str, *names: str, text: str = "") -> Path:
        folder = tmp_path / root
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.syspath_prepend(str(folder))
        for name in names:
            importlib.import_module(
                name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            )
        return folder

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def found(*targets: str) -> set[str]:
    config = {"model": {"_target_": "perdure.models.er.ER"}, "more": {}}
    config["more"] = {str(i): {"_target_": target} for i, target in enumerate(targets)}
    return set(used_modules(config)[0])


def test_the_named_module_and_what_was_imported_beside_it(write: Write) -> None:
    folder = write("mine", "ulab/__init__.py", "ulab/net.py", "uhelpers.py")
    (folder / "unimported.py").write_text("")
    write("elsewhere", "uother.py")
    assert found("ulab.net.Net") == {"ulab/__init__.py", "ulab/net.py", "uhelpers.py"}
    assert found("uother.Net") == {"uother.py"}


@pytest.mark.parametrize("mark", [None, "numpy-1.dist-info"], ids=["by-name", "by-what-is-there"])
def test_of_installed_packages_only_the_named_one(write: Write, mark: str | None) -> None:
    root = "lib" if mark else "site-packages"
    folder = write(root, "ulab/__init__.py", "ulab/net.py", "uhelpers.py", "ubig/__init__.py")
    if mark:
        (folder / mark).mkdir()
    assert found("ulab.net.Net") == {"ulab/__init__.py", "ulab/net.py"}


def test_nothing_of_perdure_torch_or_python_itself() -> None:
    assert found("torch.optim.SGD", "collections.OrderedDict", "perdure.x.Y", "nowhere.X") == set()


@pytest.mark.parametrize(("limit", "value"), [("MOST_FILES", 2), ("MOST_BYTES", 20)])
def test_too_much_is_left_out_and_reported(
    write: Write, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    write("mine", "ulab/__init__.py", "ulab/net.py", "uhelpers.py", text="x = 1234567\n")
    monkeypatch.setattr(module, limit, value)
    paths, left_out = used_modules({"model": {"_target_": "ulab.net.Net"}})
    assert set(paths) == {"ulab/net.py"}
    assert left_out == ["what ulab.net has imported from beside it (too much)"]


def test_they_lie_below_modules_without_secrets(write: Write, tmp_path: Path) -> None:
    write("mine", "ulab/__init__.py", "ulab/net.py", text="U = 'https://u:hunter2@h/'\n")
    write("mine", "ulab/secrets.py", text="x = 'hunter2'\n")
    code = read_code(None).with_modules(*used_modules({"m": {"_target_": "ulab.net.Net"}}))
    code.write(tmp_path / "run")
    copied = tmp_path / "run" / "code" / "modules" / "ulab"
    assert {path.name for path in copied.iterdir()} == {"__init__.py", "net.py"}
    assert "hunter2" not in (copied / "net.py").read_text()
    patch = (tmp_path / "run" / "code" / "diff.patch").read_text()
    assert "# left out, since it may hold secrets: modules/ulab/secrets.py\n" in patch


@pytest.mark.process
def test_a_module_in_the_repository_is_kept_once(write: Write, tmp_path: Path) -> None:
    root = write("repository/src", "ulab/__init__.py", "ulab/net.py").parent
    code = read_code(root).with_modules(*used_modules({"m": {"_target_": "ulab.net.Net"}}))
    assert {name for name in code.files if name.endswith(".py")} == {
        "src/ulab/__init__.py", "src/ulab/net.py",
    }  # fmt: skip


def test_other_modules_are_other_code(write: Write, tmp_path: Path) -> None:
    folder = write("mine", "ulab/__init__.py", "ulab/net.py")
    config = {"m": {"_target_": "ulab.net.Net"}}
    for _ in range(2):
        read_code(None).with_modules(*used_modules(config)).write(tmp_path / "run")
    (folder / "ulab" / "net.py").write_text("x = 2\n")
    read_code(None).with_modules(*used_modules(config)).write(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["code", "code-2"]
