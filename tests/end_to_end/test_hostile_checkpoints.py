"""Files from elsewhere, given to the real program: nothing runs, nothing is written outside."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shlex
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from process import command, environment, forked_in, train_in
from tiers import cases

from perdure.checkpoint.core import sidecars
from perdure.io.files import digest

SECRET = "hunter2-of-the-environment"
TINY = ("dataset.iterations=5", "buffer.size=20", "tracking.console=plain")
LAB = """\
from perdure.models.er import ER

class NCM(ER):
    def __init__(self, backbone, note: str = "") -> None:
        super().__init__(backbone)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an honest run of two of five tasks."""
    root = tmp_path_factory.mktemp("good")
    done = train_in(
        root, "model=er", *TINY, "dataset.stop_after=2", "checkpoint.save=true", "hydra.run.dir=run"
    )
    assert done.returncode == 0, done.stderr
    return root / "run"


def poisoned(good: Path, there: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the run whose newest checkpoint was changed, with sidecars that fit.

    What else would say that the checkpoint is of another run, or that the run is finished, is gone.
    """
    shutil.copytree(good, there, symlinks=True)
    for name in ("config.json", "status.json", "results.json"):
        (there / name).unlink(missing_ok=True)
    (path,) = (there / "checkpoints").glob("er_*_1.pt")
    state = torch.load(path, weights_only=True)
    change(state)
    for other in (there / "checkpoints").iterdir():
        if not other.name.startswith("er_") or "_1.pt" not in other.name:
            other.unlink()
    torch.save(state, path)
    about = json.loads(sidecars.path_of(path).read_text())
    about |= {"sha256": digest(path), "bytes": path.stat().st_size, "twins": []}
    sidecars.path_of(path).write_text(json.dumps(about))
    return path


def evil_target(part: str, command_: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        node = state["args"]
        *path, name = part.split(".")
        for key in path:
            node = node[key]
        node[name] = {"_target_": "os.system", "command": command_}

    return change


def also(*overrides: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state["overrides"] += overrides

    return change


def everything_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where the program is started; whatever it does, files beside it stay as they are."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("untouched")
    here = tmp_path / "here"
    here.mkdir()
    yield here
    assert [p.name for p in canary.iterdir()] == ["file"]
    assert (canary / "file").read_text() == "untouched"
    for path in everything_in(here):
        assert SECRET.encode() not in path.read_bytes(), path


def load(here: Path, reference: str | Path, *typed: str, **env: str) -> Any:
    secret = {"SECRET": SECRET, "PERDURE_CACHE": str(here / "cache"), **env}
    return forked_in(
        here, f"checkpoint.load='{reference}'", *typed, "tracking.console=plain", env=secret
    )


@pytest.mark.parametrize(
    ("part", "how"),
    cases(
        product(("dataset.transform", "model", "optimizer", "dataset.source"), ("file", "folder")),
        [("model", "file"), ("dataset.source", "folder")],
    ),
)
def test_a_class_from_a_file_is_not_called(good: Path, place: Path, part: str, how: str) -> None:
    pwned = place.parent / "canary" / "PWNED"
    path = poisoned(good, place / "run", evil_target(part, f"touch {pwned}"))
    done = load(place, path if how == "file" else place / "run")
    assert done.returncode == 2
    assert "_target_=os.system: named by" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_class_from_a_server_is_not_called(good: Path, place: Path) -> None:
    pwned = place.parent / "canary" / "PWNED"
    path = poisoned(good, place / "run", evil_target("dataset.transform", f"touch {pwned}"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = load(place, f"http://127.0.0.1:{server.server_port}/{path.name}")
        server.shutdown()
    assert done.returncode == 2
    assert "_target_=os.system: named by" in done.stderr


def test_stored_overrides_of_hydra_do_nothing(good: Path, place: Path) -> None:
    """Neither the environment of git, nor handlers of the log, nor folders, nor other configs."""
    canary = place.parent / "canary"
    script = place / "script"
    script.write_text(f"#!/bin/sh\ntouch {canary}/PWNED\n")
    script.chmod(0o755)
    logging = f"{{class:logging.FileHandler,filename:{canary}/log}}"
    poisoned(
        good,
        place / "run",
        also(
            f"hydra.job.env_set.GIT_EXTERNAL_DIFF={script}",
            f"+hydra.job.env_set.GIT_CONFIG_GLOBAL={canary}/config",
            f"+hydra.job_logging.handlers.evil={logging}",
            f"hydra.run.dir={canary}/run",
            f"hydra.sweep.dir={canary}/sweep",
            f"output_root={canary}",
            f"timestamp=../../{canary.name}/x",
            f"data.root={canary}/data",
            "checkpoint.save=true",
            f"checkpoint.name=../../../{canary.name}/",
            f"--config-dir={canary}",
            "tracking=wandb",
        ),
    )
    done = load(place, place / "run")
    assert done.returncode == 0, done.stderr
    assert f"run folder {place / 'run'}" in done.stdout
    fork = load(place, place / "run", "checkpoint.fork=true", "dataset.stop_after=3")
    assert fork.returncode == 0, fork.stderr
    assert [p.name for p in (place / "outputs").iterdir()] != []


@pytest.mark.parametrize("key", ["note", "name"])
def test_stored_interpolations_are_text(good: Path, place: Path, key: str) -> None:
    def change(state: dict[str, Any]) -> None:
        state["args"]["model"][key] = "${oc.env:SECRET}"
        state["overrides"].append("model.name=${oc.env:SECRET}")

    poisoned(good, place / "run", change)
    done = load(place, place / "run")
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    cases(
        ["../../canary/x", "/tmp/x", ".tmp-1", "a\0b", "a/b", "x" * 300], ["../../canary/x", "a\0b"]
    ),
)
@pytest.mark.parametrize("key", ["model", "dataset"])
def test_stored_names_are_parts_of_file_names(good: Path, place: Path, key: str, name: str) -> None:
    def change(state: dict[str, Any]) -> None:
        state["args"][key]["name"] = name

    poisoned(good, place / "run", change)
    done = load(place, place / "run", "checkpoint.fork=true")
    assert done.returncode == 2
    assert f"{key}.name=" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["train.log", "metrics.jsonl", "results.json", ".hydra", "checkpoints", "status.json"]
)
def test_nothing_is_written_through_links(good: Path, place: Path, name: str) -> None:
    canary = place.parent / "canary"
    poisoned(good, place / "run", lambda state: None)
    target = place / "run" / name
    if name == "checkpoints":  # a link to real checkpoints of another run
        elsewhere = place / "elsewhere"
        target.rename(elsewhere)
        target.symlink_to(elsewhere)
    else:
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        target.symlink_to(canary if name == ".hydra" else canary / "file")
    done = load(place, place / "run", "dataset.stop_after=3")
    assert done.returncode == 2
    assert "a link out of the run's folder" in done.stderr


@pytest.mark.parametrize("how", ["disk", "sidecar"])
def test_a_path_for_a_source_is_not_used(good: Path, place: Path, how: str) -> None:
    def change(state: dict[str, Any]) -> None:
        state["args"]["dataset"]["source"] = {
            "_target_": "perdure.datasets.sources.FashionMNIST",
            "mirrors": ["http://127.0.0.1:9/evil"],
        }

    path = poisoned(good, place / "run", change)
    if how == "disk":
        sidecars.path_of(path).unlink()
    done = load(place, path, "data.root=data")
    assert done.returncode == 2
    assert "dataset.source.mirrors=" in done.stderr
    assert "checkpoint.allow=[dataset.source.mirrors]" in done.stderr


# --- what is one's own still works ----------------------------------------------------------------


def stop_after_first_save(here: Path, *arguments: str, **env: str) -> str:
    """Start a run, end it by SIGTERM once it has saved within a task; the command it prints."""
    import subprocess
    import time

    process = subprocess.Popen(
        command(*arguments, "dataset.iterations=3000", "checkpoint.every=50 steps"),
        cwd=here,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not list(here.glob("**/checkpoints/step-*_full.pth.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, sentence = process.communicate(timeout=200)
    assert process.returncode == 75, sentence
    return sentence.partition("; ")[2].partition(" resumes it")[0]


def own_class(here: Path, how: str) -> tuple[list[str], dict[str, str]]:
    lab = here / "lab"
    lab.mkdir()
    (lab / "mylab.py").write_text(LAB)
    env = {"PYTHONPATH": os.pathsep.join([str(lab), os.environ.get("PYTHONPATH", "")])}
    if how == "command line":
        return ["model._target_=mylab.NCM", "+model.note=x"], env
    conf = here / "conf" / "model"
    conf.mkdir(parents=True)
    (conf / "ncm.yaml").write_text("_target_: mylab.NCM\nname: ncm\nnote: x\n")
    if how == "searchpath":
        return [f"hydra.searchpath=['file://{here / 'conf'}']", "model=ncm"], env
    return [f"--config-dir={here / 'conf'}", "model=ncm"], env


@pytest.mark.parametrize(
    "how",
    [
        "command line",
        *(pytest.param(h, marks=pytest.mark.exhaustive) for h in ("config-dir", "searchpath")),
    ],
)
def test_own_classes_are_resumed_with_the_command_as_printed(tmp_path: Path, how: str) -> None:
    typed, env = own_class(tmp_path, how)
    again = stop_after_first_save(tmp_path, *typed, "dataset.stop_after=1", **env)
    words = shlex.split(again)
    assert words[:2] == ["python", "train.py"]
    bare = next(word for word in words if word.startswith("checkpoint.load="))
    refused = train_in(tmp_path, bare, env=env)
    assert refused.returncode == 2
    assert ("mylab.NCM" if how == "command line" else "--config-dir=") in refused.stderr
    done = train_in(tmp_path, *words[2:], env=env)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
    (results,) = tmp_path.glob("outputs/*/results.json")
    assert json.loads(results.read_text())["status"] == "finished"


def test_own_classes_are_resumed_by_the_same_command(tmp_path: Path) -> None:
    typed, env = own_class(tmp_path, "config-dir")
    auto = (*typed, "dataset.stop_after=1", "checkpoint.resume=auto", "hydra.run.dir=run")
    stop_after_first_save(tmp_path, *auto, **env)
    again = (*auto, "dataset.iterations=3000", "checkpoint.every=50 steps")
    done = train_in(tmp_path, *again, env=env)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout
