"""Perdure from its wheel, in an environment without a checkout, from any directory."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from lab import MINE, MODULES, TINY, make_lab, modules_of
from process import ROOT

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
ALONE = ("--no-deps", "--no-index")
BUILD = (*PIP, "wheel", *ALONE, "--no-build-isolation")


def sh(
    cwd: Path, *command: str | Path, status: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that must end with `status`, knowing nothing of the checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PERDURE", "GIT_"))}
    variables = {**clean, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **env}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the working tree's files, a person's conf/local, and what an old build left."""
    if not all(map(importlib.util.find_spec, ("pip", "setuptools"))):
        pytest.skip("needs pip and setuptools")
    folder = tmp_path_factory.mktemp("source")
    listed = sh(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).is_file(), listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "conf" / "local").mkdir()
    (folder / "conf" / "local" / "mine.yaml").write_text("x: 1\n")
    stale = folder / "build" / "lib" / "hydra_plugins" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    sh(source, *BUILD, "-w", target, source)
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel, and this one's packages but Perdure."""
    folder = tmp_path_factory.mktemp("environment")
    sh(folder, sys.executable, "-m", "venv", "--without-pip", folder)
    program = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(sh(folder, program, "-c", where).stdout.strip())
    # A line of a .pth file adds a folder, but does not read the .pth files in it, where an editable
    # Perdure would be.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    sh(folder, *PIP, "--python", program, "install", *ALONE, "--ignore-installed", wheel)
    where = "import perdure; print(perdure.__file__)"
    assert sh(folder, program, "-c", where).stdout.strip() == str(site / "perdure" / "__init__.py")
    return program


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {n for n in file.namelist() if ".dist-info/" not in n and not n.endswith("/")}


def expected(source: Path) -> set[str]:
    """What a wheel of the source holds, by their places in it."""
    code = {p.relative_to(source / "src") for p in (source / "src").rglob("*.py")}
    data = source / "src" / "perdure" / "datasets" / "data"
    code |= {p.relative_to(source / "src") for p in data.rglob("*") if p.is_file()}
    conf = {p.relative_to(source) for p in (source / "conf").rglob("*") if p.is_file()}
    kept = {"perdure" / p for p in conf if p.parts[1] != "local"}
    return {p.as_posix() for p in code | kept}


def test_the_wheel_holds_the_package_its_data_and_conf_and_nothing_else(
    source: Path, wheel: Path
) -> None:
    names = names_in(wheel)
    assert names == expected(source)
    assert "hydra_plugins/perdure_launchers.py" in names
    assert "perdure/conf/hydra/launcher/local.yaml" in names
    assert "perdure/datasets/data/mnist/train-images-idx3-ubyte.gz" in names


def test_a_wheel_from_an_sdist_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    make = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    archive = sh(source, sys.executable, "-c", make, tmp_path).stdout.splitlines()[-1]
    sh(tmp_path, *BUILD, "-w", tmp_path, tmp_path / archive)
    (again,) = tmp_path.glob("*.whl")
    assert names_in(again) == names_in(wheel)


def finished(run: Path) -> bool:
    return json.loads((run / "results.json").read_text())["status"] == "finished"


def test_a_run_and_its_resume(python: Path, tmp_path: Path) -> None:
    train = (python.with_name("perdure"), "train")
    run = ("hydra.run.dir=run", "checkpoint.save=true", *TINY)
    sh(tmp_path, *train, "model=derpp", *run)
    code = tmp_path / "run" / "code"
    assert sorted(p.name for p in code.iterdir()) == ["commit.txt", "diff.patch", "environment.txt"]
    assert (code / "commit.txt").read_text().startswith("perdure ")
    assert "git" not in (code / "commit.txt").read_text()
    sh(tmp_path, *train, "checkpoint.load=run", "dataset.stop_after=2")
    assert finished(tmp_path / "run")
    wrong = sh(tmp_path, *train, "modle=er", status=2)
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "launcher",
    [
        "one_process",
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in ("local", "slurm_local")),
    ],
)
def test_a_sweep(python: Path, tmp_path: Path, launcher: str) -> None:
    if launcher == "slurm_local":
        pytest.importorskip("submitit")
    sweep = ("-m", f"hydra/launcher={launcher}", "model=sgd,er", "hydra.sweep.dir=sweep", *TINY)
    sh(tmp_path, python.with_name("perdure"), "train", *sweep)
    assert all(finished(tmp_path / "sweep" / job) for job in "01")


def test_torchrun(python: Path, tmp_path: Path) -> None:
    ranks = (python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    sh(tmp_path, *ranks, "-m", "perdure", "train", "hydra.run.dir=run", *TINY)
    assert finished(tmp_path / "run")


def test_a_method_and_a_benchmark_of_ones_own(python: Path, tmp_path: Path) -> None:
    make_lab(tmp_path)
    train = (python.with_name("perdure"), "train", "--config-dir=labconf")
    sh(tmp_path, *train, *MINE, "hydra.run.dir=run")
    assert modules_of(tmp_path / "run") == MODULES


def test_from_python(python: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()  # anybody's
    code = f"import perdure; print(perdure.train('model=sgd', *{TINY!r})['status'])"
    assert sh(tmp_path, python, "-c", code).stdout == "finished\n"


def test_the_other_commands(python: Path, tmp_path: Path) -> None:
    perdure = python.with_name("perdure")
    assert "prepare-data" in sh(tmp_path, perdure, "--help").stdout
    assert "derpp" in sh(tmp_path, perdure, "train", "--help").stdout
    assert "derpp" in sh(tmp_path, perdure, "published", "model=derpp").stdout
    data = sh(tmp_path, perdure, "prepare-data", "dataset=perm-mnist")
    assert data.stdout == "perm-mnist: data are ready inside the package\n"


def test_reproduce_writes_below_the_current_directory(python: Path, tmp_path: Path) -> None:
    few = ("--seeds", "0", "--only", "seq-mnist/sgd", "dataset.iterations=3")
    sh(tmp_path, python.with_name("perdure"), "reproduce", *few)
    (folder,) = (tmp_path / "outputs").glob("reproduce-*")
    assert list(folder.rglob("results.json"))
