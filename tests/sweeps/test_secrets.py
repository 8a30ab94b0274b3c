"""A job in a process of its own gets the whole addresses, and no file ever does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from webserver import Handler, Server, serving

from perdure.io.redaction import ADDRESSES, VARIABLE
from perdure.sweeps.clusters import Ray, Slurm
from perdure.sweeps.jobs import Job, Outcome
from perdure.sweeps.launchers import Local
from perdure.sweeps.preflight import check

pytestmark = pytest.mark.process

SECRET = "hunter2-secret"

JOB = """
import os, sys
from pathlib import Path
from perdure.checkpoint.remote.references import resolve
from perdure.io.redaction import ADDRESSES, VARIABLE

arguments = ADDRESSES.command(sys.argv[1:])
assert VARIABLE not in os.environ
shown = arguments[0].partition("=")[2].strip("'")
print("fetching", shown, ADDRESSES)
path = resolve(ADDRESSES.restore(shown, "checkpoint.load"), Path("cache"))
assert path.read_bytes() == b"weights"
"""


@pytest.fixture
def server() -> Iterator[Server]:
    """Gives the file to who has the token, and nothing else to anyone."""

    def with_token(handler: Handler, data: bytes) -> None:
        if handler.path == f"/a.pth?token={SECRET}":
            handler.body(data)
        else:
            handler.send_error(404 if SECRET in handler.path else 403)

    with serving(Server()) as served:
        served.files[f"/a.pth?token={SECRET}"] = b"weights"
        served.usual = with_token
        yield served


@pytest.fixture
def jobs(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Two jobs of a command in whose overrides the token was typed."""
    monkeypatch.delenv(VARIABLE, raising=False)
    (override,) = ADDRESSES.command([f"checkpoint.load='{server.url('/a.pth?token=' + SECRET)}'"])
    assert SECRET not in override
    command = (sys.executable, "-c", JOB, override)
    return [Job(n, (override,), override, tmp_path / f"{n}", command, tmp_path) for n in (0, 1)]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    ADDRESSES.command([])


def files_with(secret: str, root: Path) -> list[Path]:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 2
    return [path for path in files if secret.encode() in path.read_bytes()]


def finished(jobs: list[Job], outcomes: dict[int, Outcome]) -> None:
    outputs = [(job.folder / "console.log").read_text() for job in jobs]
    assert [outcomes[job.number].status for job in jobs] == [0, 0], outputs
    assert all(line.startswith("fetching http://127.0.0.1") for line in outputs)
    assert all("?token=*** Addresses(1)" in line for line in outputs)
    assert VARIABLE not in os.environ


def test_local_processes(tmp_path: Path, jobs: list[Job]) -> None:
    finished(jobs, Local(2, 1, None).execute(jobs, {}))
    assert files_with(SECRET, tmp_path) == []


def submitit_on_this_machine(folder: Path, **more: Any) -> Slurm:
    submit = {"timeout_min": 5, "tasks_per_node": 1, **more}
    return Slurm("local", f"{folder}/.submitit/%j", 1, 1, OmegaConf.create(submit))


def test_submitit(tmp_path: Path, jobs: list[Job]) -> None:
    pytest.importorskip("submitit")
    finished(jobs, submitit_on_this_machine(tmp_path).execute(jobs, {}))
    assert len(list(tmp_path.glob(".submitit/*/*_submitted.pkl"))) == 2
    assert files_with(SECRET, tmp_path) == []


SBATCH = """#!/bin/sh
cp "$1" {folder}/submitted.sh
/usr/bin/env > {folder}/environment
echo "Submitted batch job 12345678"
"""


def test_sbatch_gets_it_in_its_environment_alone(
    tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sbatch and its files would get, by a program of that name."""
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(text.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    slurm = Slurm("slurm", f"{tmp_path}/.submitit/%j", 1, 1, OmegaConf.create({"timeout_min": 5}))
    assert len(slurm._submitted(jobs)) == 2
    assert files_with(SECRET, tmp_path) == [tmp_path / "environment"]
    assert "--export=NONE" not in (tmp_path / "submitted.sh").read_text()
    assert VARIABLE not in os.environ


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_ray(tmp_path: Path, jobs: list[Job]) -> None:
    init = {"include_dashboard": False, "logging_level": 40, "_temp_dir": str(tmp_path / "ray")}
    finished(jobs, Ray("local", 1, 0.0, OmegaConf.create(init)).execute(jobs, {}))
    assert files_with(SECRET, tmp_path) == []


def test_a_job_without_the_address_says_so(tmp_path: Path, jobs: list[Job]) -> None:
    ADDRESSES.command([])
    outcomes = Local(2, 1, None).execute(jobs[:1], {})
    assert outcomes[0].status == 1
    assert outcomes[0].reason.endswith(
        "*** stands for a secret, which is never stored; must be the whole address, typed again"
    )


@pytest.mark.parametrize(
    "storage", ["postgresql://user:s3cret@host/db", "mysql+pymysql://u:s3cret@host/db?charset=utf8"]
)
def test_a_password_of_a_search_is_refused(storage: str) -> None:
    from perdure.errors import UserError

    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage=.*must be without it") as caught:
        check(search_in(storage))
    assert "s3cret" not in str(caught.value)
    for harmless in ("sqlite:///search.db?timeout=10", "postgresql://user@host/db", None):
        check(search_in(harmless))


def search_in(storage: str | None) -> Any:
    target = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    sweeper = {"_target_": target, "n_trials": 2, "n_jobs": 1, "storage": storage}
    launcher = {"_target_": "hydra_plugins.perdure_launchers.OneProcess"}
    return OmegaConf.create(
        {
            "hydra": {"launcher": launcher, "sweeper": sweeper},
            "checkpoint": {"load": None, "fork": False, "resume": None},
        }
    )
