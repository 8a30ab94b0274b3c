"""What lies between the command line and a run: Hydra's hooks, the run's folder, worded errors.

Nothing here imports torch, so that `--help` and a user's mistake are answered at once.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from perdure.checkpoint.core.lock import RunLock
from perdure.cli import help
from perdure.config import compose, error_messages
from perdure.config.overrides import Arguments
from perdure.config.published import notices
from perdure.config.schema import validate
from perdure.errors import DivergenceError, Leaving, PeerLostError, PreemptedError, UserError
from perdure.io.files import require_own
from perdure.io.redaction import ADDRESSES
from perdure.ranks import environment, rendezvous
from perdure.run.preemption import RESUMABLE, StopFlag, follow_parent
from perdure.run.resume import (
    Source,
    command_to_resume,
    expand,
    good,
    job_record,
    limits_of,
)
from perdure.sweeps import preflight
from perdure.sweeps.report import REPORT, with_summary

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_FRESH = {".hydra", "train.log", ".lock", "console.log"}
_LOCK_PATIENCE = 30.0
_SILENT = ("hydra.output_subdir=null", "hydra/job_logging=none")
"""Overrides for the ranks that write nothing."""
_source: Source | None = None
_typed = Arguments(())
"""The command line before a checkpoint expanded it."""


class Launch(Callback):
    """Checks the configuration and reserves the folder before Hydra makes anything."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "sweep")

    @staticmethod
    def _prepare(config: DictConfig, mode: str) -> None:
        try:
            ADDRESSES.redact_config(config)  # what configuration files hold
            if mode == "sweep":
                preflight.check(config)  # its jobs are validated one by one
            else:
                validate(config)
            moment = rendezvous.known("timestamp") or rendezvous.from_main(
                "timestamp", lambda: Launch._reserve(config, mode), lasting=True
            )
            with read_write(config):
                compose.moment = config.timestamp = moment
            if mode == "sweep" and not environment.is_main():
                with read_write(config):  # where Hydra writes multirun.yaml
                    config.hydra.sweep.dir = environment.scratch()
        except (UserError, OSError, OmegaConfBaseException) as error:
            stop(error_messages.explain(error))

    @staticmethod
    def _reserve(config: DictConfig, mode: str) -> str:
        """Make the folder, on rank 0 alone; returns the run's time."""
        try:
            raw: Any = OmegaConf.to_container(config.hydra[mode], resolve=False)
            ours = "${timestamp}" in str(raw["dir"])
            record = None
            if ours and config.checkpoint.resume is not None:
                record = job_record(Path(config.output_root), config.hydra.overrides.task)
            if record is not None and record.is_file():
                with read_write(config):
                    config.timestamp = Path(record.read_text()).name
            else:
                compose.reserving = ours
            folder = Path(config.hydra[mode].dir)
            require_own(folder)
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied", str(folder))
            if record is not None:
                record.parent.mkdir(exist_ok=True)
                record.write_text(str(folder))
            return str(config.timestamp)
        finally:
            compose.reserving = False


def job(config: DictConfig) -> float | None:
    """One run under Hydra; returns the average accuracy (class-IL or domain-IL)."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    flag = StopFlag()
    flag.install()
    lock = RunLock(folder)
    try:
        if environment.is_main():
            lock.acquire(_LOCK_PATIENCE if environment.life() else 0.0)
    except UserError as error:
        stop(str(error))  # the folder is another run's: nothing in it is touched
    try:
        validate(config)
        results = rendezvous.from_main("results", lambda: _finished(config, folder))
        results = results or _train(config, folder, flag)
    except (UserError, OmegaConfBaseException) as error:
        discard(folder)
        leave(folder, error_messages.explain(error), 2)
    except PreemptedError as error:
        leave(folder, f"{error}; {_resume(config, folder)} goes on from there", RESUMABLE)
    except DivergenceError as error:
        leave(folder, str(error), 1)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        leave(folder, f"{error.filename or folder}: cannot write there ({error.strerror})", 1)
    except PeerLostError as error:
        lost(folder, error, _resume(config, folder))
    except Exception:
        environment.let_main_speak()
        raise
    finally:
        lock.release()
    if environment.is_main():
        note_status(folder, "finished", 0)
    average: dict[str, float | None] = results["average_accuracy"]
    return next(iter(average.values()))


def _train(config: DictConfig, folder: Path, flag: StopFlag) -> dict[str, Any]:
    # What is imported stays; looking through it for garbage costs an eighth of the imports.
    gc.disable()
    from perdure.checkpoint.core.format import sweep
    from perdure.checkpoint.core.ledger import folder_of
    from perdure.run.assemble import run

    gc.freeze()
    gc.enable()
    overrides = list(HydraConfig.get().overrides.task)
    source = _source
    limits = limits_of(config.checkpoint.max_minutes, config.checkpoint.max_gigabytes)
    if environment.is_main():
        sweep(folder_of(folder))
        if environment.life():
            source = good(folder, limits) or source
        elif config.checkpoint.resume is not None:
            source = good(folder, limits)
    told = notices(config, overrides)
    name = _sweep_of(HydraConfig.get())
    return run(config, folder, overrides, told, source, flag, name, _typed.config_folders)


def _sweep_of(hydra: Any) -> str | None:
    """The name of the sweep that this run is a job of, in whatever process; none for a lone run."""
    return None if OmegaConf.is_missing(hydra.job, "num") else Path(hydra.sweep.dir).name


def _finished(config: DictConfig, folder: Path) -> dict[str, Any] | None:
    """The results of the run that has already ended well in `folder`, told to the user."""
    path = folder / "results.json"
    again = config.checkpoint.resume is not None or environment.life() > 0
    if not again or not path.is_file():
        return None
    results: dict[str, Any] = json.loads(path.read_text())
    if results.get("status") != "finished":
        return None
    print(f"the run in {folder} is finished already; its results are in {path.name}")
    return results


def note_status(folder: Path, status: str, exit_status: int) -> None:
    """Write status.json: what a wrapper should know, since torchrun hides the exit status."""
    if not folder.is_dir():
        return
    temporary = folder / ".status.json.tmp"
    temporary.write_text(json.dumps({"status": status, "exit_status": exit_status}) + "\n")
    os.replace(temporary, folder / "status.json")


def leave(folder: Path, sentence: str, exit_status: int) -> NoReturn:
    """Note why the run in `folder` ends, say it, and end the process."""
    if not environment.is_main():
        _follow(sentence, exit_status)
    path = folder / "results.json"
    if exit_status == RESUMABLE:
        note_status(folder, "resumable", exit_status)
    elif path.is_file() and json.loads(path.read_text())["status"] == "failed":
        # Otherwise the run was refused before it trained, and stands as it stood.
        note_status(folder, "failed", exit_status)
    stop(sentence, exit_status)


def _resume(config: DictConfig, folder: Path) -> str:
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return command_to_resume(_typed, plain, folder)


def lost(folder: Path, error: PeerLostError, command: str) -> NoReturn:
    """End a process that cannot go on without the others; rank 0 says so."""
    if environment.is_main():
        note_status(folder, "interrupted", 1)
        stop(
            f"another process of the run ended or did not answer ({error}); {command} goes on "
            "from the last checkpoint",
            1,
        )
    environment.let_main_speak()
    sys.exit(1)


def _follow(sentence: str, exit_status: int) -> NoReturn:
    """End a process that is not rank 0, after rank 0."""
    if exit_status == RESUMABLE:
        sys.exit(exit_status)
    stop(sentence, exit_status)


@contextmanager
def telling() -> Iterator[None]:
    """Say the sentence with which the process ends."""
    try:
        yield
    except Leaving as leaving:
        environment.let_main_speak()
        print(f"perdure: {leaving.sentence}", file=sys.stderr)
        raise


@telling()
def command_line(main: Callable[[], Any]) -> None:
    """Run Hydra's `main`; a user's mistake ends in one sentence and exit status 2."""
    sys.argv[1:] = ADDRESSES.command(sys.argv[1:])  # before anything reads, stores or shows them
    environment.join()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help.text(), end="")
        return
    follow_parent()
    compose.register()
    traceback_wanted = "HYDRA_FULL_ERROR" in os.environ
    # Without this Hydra prints its own long text and exits with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        arguments = rendezvous.from_main("arguments", _expanded)
        sys.argv[1:] = arguments if environment.is_main() else [*arguments, *_SILENT]
        with_summary(main, REPORT)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if traceback_wanted:
            raise
        stop(error_messages.explain(error))
    except AssertionError as error:
        sentence = compose.needs_tracking(error, sys.argv[1:])
        if sentence is None or traceback_wanted:
            raise
        stop(sentence)
    except KeyboardInterrupt:
        stop("interrupted", 130)


def _expanded() -> list[str]:
    global _source, _typed
    _typed = Arguments(tuple(sys.argv[1:]))
    arguments, _source = expand(sys.argv[1:])
    # What a checkpoint of an earlier version has stored may hold a secret too.
    return [ADDRESSES.redact(argument) for argument in arguments]


def stop(sentence: str, status: int = 2) -> NoReturn:
    """End the process (in a sweep in one process, the job), saying `sentence` last."""
    raise Leaving(sentence, status)


def discard(folder: Path) -> None:
    """Take away a run folder in which nothing has happened yet."""
    if environment.is_main() and folder.is_dir() and {p.name for p in folder.iterdir()} <= _FRESH:
        shutil.rmtree(folder)
