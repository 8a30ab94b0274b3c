"""A token in an address: used by the real commands, and in no file or line of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from process import run_folder, train_in
from tiers import cases
from webserver import Handler, Server, serving

import perdure
from perdure.io.redaction import VARIABLE

SECRET = "hunter2-secret"
TINY = ("model=er", "dataset.iterations=5", "dataset.stop_after=1", "tracking.console=off")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """(A weights-only checkpoint, a full one)."""
    folder = tmp_path_factory.mktemp("good")
    perdure.train(*TINY, "checkpoint.save=true", folder=folder)
    there = folder / "checkpoints"
    return (there / "best.pth").read_bytes(), (there / "best_full.pth").read_bytes()


@pytest.fixture
def server(weights: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Gives its files to who has the token."""

    def with_token(handler: Handler, data: bytes) -> None:
        handler.body(data) if data else handler.send_error(404 if SECRET in handler.path else 403)

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with serving(Server()) as served:
        light, full = weights
        served.files = {f"/a.pth?token={SECRET}": light, f"/full.pth?token={SECRET}": full}
        served.usual = with_token
        yield served


def load_from(server: Server, name: str = "a.pth", secret: str = SECRET) -> str:
    return f"checkpoint.load='{server.url(f'/{name}?token={secret}')}'"


def leaks(root: Path) -> list[Path]:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 5
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"PERDURE_CACHE": str(tmp_path / "cache")}


@pytest.mark.parametrize("tracking", ["local", "wandb"])
def test_a_run(tmp_path: Path, server: Server, env: dict[str, str], tracking: str) -> None:
    more = ("checkpoint.save=true", f"tracking={tracking}")
    done = train_in(tmp_path, *TINY, *more, load_from(server), env=env)
    assert done.returncode == 0, done.stderr
    assert leaks(tmp_path) == []
    assert SECRET not in done.stdout + done.stderr
    assert "a.pth?token=***" in (run_folder(tmp_path) / ".hydra" / "overrides.yaml").read_text()


def test_a_fork_of_a_full_checkpoint(tmp_path: Path, server: Server, env: dict[str, str]) -> None:
    more = ("checkpoint.save=true", "checkpoint.fork=true")
    done = train_in(tmp_path, *more, load_from(server, "full.pth"), env=env)
    assert done.returncode == 0, done.stderr
    assert leaks(tmp_path) == []
    assert SECRET not in done.stdout + done.stderr


def test_a_wrong_token_is_not_shown(tmp_path: Path, server: Server, env: dict[str, str]) -> None:
    wrong = "wrong-token"
    done = train_in(tmp_path, *TINY, load_from(server, secret=wrong), env=env)
    assert done.returncode == 2
    assert "a.pth?token=*** could not be fetched: " in done.stderr
    assert wrong not in done.stdout + done.stderr


def test_what_is_stored_alone_is_not_enough(
    tmp_path: Path, server: Server, env: dict[str, str]
) -> None:
    done = train_in(tmp_path, *TINY, load_from(server, secret="***"), env=env)
    assert done.returncode == 2
    assert done.stderr.endswith("must be the whole address, typed again\n")


@pytest.mark.parametrize(
    ("launcher", "job"),
    cases([("one_process", "0"), ("local", "0"), ("slurm_local", "0")], [("local", "0")]),
)
def test_a_sweep(
    tmp_path: Path, server: Server, env: dict[str, str], launcher: str, job: str
) -> None:
    done = train_in(
        tmp_path, "-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "seed=0,1", *TINY,
        "checkpoint.save=true", load_from(server), env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert leaks(tmp_path) == []
    assert SECRET not in done.stdout + done.stderr
    assert json.loads((tmp_path / "sweep" / job / "results.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("launcher", "token"),
    cases(
        product((None, "one_process", "local"), (SECRET, "${oc.env:MY_TOKEN}")),
        [(None, SECRET), ("local", "${oc.env:MY_TOKEN}")],
    ),
)
def test_an_address_in_a_configuration_file(
    tmp_path: Path, server: Server, env: dict[str, str], launcher: str | None, token: str
) -> None:
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text(
        f"# @package _global_\ncheckpoint:\n  load: {server.url('/a.pth?token=' + token)}\n"
    )
    sweep = () if launcher is None else ("-m", f"hydra/launcher={launcher}", "seed=0,1")
    root = tmp_path / "root"
    root.mkdir()
    done = train_in(
        root, "--config-dir", str(mine.parent), *sweep, "experiment=mine", *TINY,
        "checkpoint.save=true", env={**env, "MY_TOKEN": SECRET},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert leaks(root) == []
    assert SECRET not in done.stdout + done.stderr


def test_the_python_api(
    tmp_path: Path, server: Server, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_CACHE", env["PERDURE_CACHE"])
    perdure.train(*TINY, "checkpoint.save=true", load_from(server), folder=tmp_path / "run")
    assert leaks(tmp_path) == []


OWN = """
from perdure.datasets.sources import MNIST

class Remote(MNIST):
    def __init__(self, url):
        super().__init__()
        assert url == "https://user:hunter2-secret@host/x", "not the whole address"
"""


def test_a_parameter_of_an_own_class(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.replace("hunter2-secret", "hunter3-secret"))
    done = train_in(
        tmp_path, *TINY, "checkpoint.save=true", "dataset.source._target_=own.Remote",
        "+dataset.source.url='https://user:hunter3-secret@host/x'",
        env={"PYTHONPATH": f"{tmp_path}:{Path(perdure.__file__).parents[1]}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = run_folder(tmp_path)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter3-secret" in path.read_bytes()] == []
