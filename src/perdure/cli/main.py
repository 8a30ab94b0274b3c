"""The main program: from the command line to a run, through Hydra, with worded errors.

Nothing here imports torch, so that `--help` and a user's mistake are answered at once.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

import perdure
from perdure.cli.help import text as help_text
from perdure.config import compose, error_messages
from perdure.config.benchmark import require_effect
from perdure.config.build import import_from_here
from perdure.config.folder import CONF
from perdure.config.overrides import Arguments, readable, without_null_choices
from perdure.config.recipe import notices
from perdure.config.suggestions import require_no_flags
from perdure.config.validation import validate
from perdure.errors import ExitRun, PeerLostError, PerdureError, PreemptedError, UserError
from perdure.io.atomic import write_atomically
from perdure.io.files import require_own
from perdure.io.redaction import ADDRESSES
from perdure.ranks import environment, rendezvous
from perdure.run.commands import command_to_resume, job_record
from perdure.run.folder import RunFolder
from perdure.run.identity import is_used, require_place
from perdure.run.preemption import StopFlag, follow_parent
from perdure.run.resume import Plan, RestorePoint, limits_of, plan
from perdure.sweeps import preflight
from perdure.sweeps.report import REPORT, with_summary
from perdure.training.clock import Moment

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_LOCK_PATIENCE = 30.0
_SILENT = ("hydra.output_subdir=null", "hydra/job_logging=none")
"""Overrides for the ranks that write nothing."""


class Launch(Callback):
    """Checks the configuration and reserves the folder before Hydra makes anything.

    Attributes:
        resumes: the folder of the run that `checkpoint.load` resumes. Of the class, since Hydra
            itself makes the callback, from the configuration alone.
        typed: the overrides as typed, where a fork has more from its checkpoint.
    """

    resumes: ClassVar[Path | None] = None
    typed: ClassVar[list[str] | None] = None

    @classmethod
    def resumes_in(cls, folder: RunFolder) -> bool:
        """Whether `checkpoint.load` resumes the run that is in `folder`."""
        return cls.resumes is not None and cls.resumes.resolve() == folder.path.resolve()

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "sweep")

    @staticmethod
    def _prepare(config: DictConfig, mode: str) -> None:
        try:
            ADDRESSES.redact_config(config)  # what configuration files hold
            compose.expand_home(config)
            if mode == "sweep":
                preflight.check(config)  # its jobs are validated one by one
            else:
                require_effect(config.hydra)
                validate(config)
            timestamp = rendezvous.known("timestamp") or rendezvous.from_main(
                "timestamp", lambda: Launch._reserve(config, mode), lasting=True
            )
            with read_write(config):
                compose.run_timestamp.fixed = config.timestamp = timestamp
            if mode == "sweep" and not environment.is_main():
                with read_write(config):  # where Hydra writes multirun.yaml
                    config.hydra.sweep.dir = environment.scratch()
        except (UserError, OSError, OmegaConfBaseException) as error:
            exit_run(error_messages.explain(error))

    @staticmethod
    def _reserve(config: DictConfig, mode: str) -> str:
        """Make the folder, on rank 0 alone; returns the run timestamp."""
        raw: Any = OmegaConf.to_container(config.hydra[mode], resolve=False)
        is_named_by_time = "${timestamp}" in str(raw["dir"])
        record = None
        if is_named_by_time and config.checkpoint.resume is not None:
            record = job_record(Path(config.output_root), config.hydra.overrides.task)
        if record is not None and record.is_file():
            with read_write(config):
                config.timestamp = Path(record.read_text()).name
            is_named_by_time = False
        with compose.run_timestamp.reserving(is_named_by_time):
            folder = Path(config.hydra[mode].dir)
            compose.require_literal(f"hydra.{mode}.dir", folder)
            require_own(folder)
            if mode == "run":
                Launch._require_place(config, RunFolder(folder))
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied", str(folder))
            if mode == "run" and Launch.typed is not None:
                Launch._write_typed(RunFolder(folder))
            if record is not None:
                record.parent.mkdir(exist_ok=True)
                record.write_text(str(folder))
            return str(config.timestamp)

    @staticmethod
    def _write_typed(folder: RunFolder) -> None:
        """Before Hydra writes all overrides, so that no fork is without it."""
        if not folder.typed_overrides.is_file():
            folder.hydra.mkdir(exist_ok=True)
            write_atomically(folder.typed, yaml.safe_dump(Launch.typed).encode())

    @staticmethod
    def _require_place(config: DictConfig, folder: RunFolder) -> None:
        """Refuse before anything is written, `.hydra` included, what may not be written there."""
        if not is_used(folder.path):
            return
        folder.new_lock().require_free()
        resumes = Launch.resumes_in(folder) or config.checkpoint.resume is not None
        HydraConfig.instance().set_config(config)  # what files may refer to, as in the run itself
        require_place(folder.path, config, list(config.hydra.overrides.task), resumes)
        folder.finished_for(config)


class Program:
    """One command: what was typed, the checkpoint it starts from, and the runs that Hydra makes."""

    def __init__(self) -> None:
        self._plan = Plan(Arguments(()), ())
        self._is_first = True

    def __call__(self, words: Sequence[str]) -> None:
        """Run the command `words`; a user's mistake ends in one sentence and exit status 2."""
        words = ADDRESSES.command(words)  # before anything reads, stores or shows them
        words = list(map(readable, words))
        environment.join()
        if {"--help", "-h"} & set(words):
            print(help_text(), end="")
            return
        follow_parent()
        import_from_here()
        compose.register(Arguments(tuple(words)).config_folders)
        shows_traceback = "HYDRA_FULL_ERROR" in os.environ
        # Without this Hydra prints its own long text and exits with status 1.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            require_no_flags(words)
            words = without_null_choices(words)
            words = rendezvous.from_main("arguments", lambda: self._expanded(words))
            sys.argv[1:] = words if environment.is_main() else [*words, *_SILENT]
            run = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
            with_summary(run(self.job), REPORT)
        except (UserError, HydraException, OmegaConfBaseException) as error:
            if shows_traceback:
                raise
            exit_run(error_messages.explain(error, words))
        except AssertionError as error:
            sentence = compose.needs_tracking(error, sys.argv[1:])
            if sentence is None or shows_traceback:
                raise
            exit_run(sentence)
        except KeyboardInterrupt:
            exit_run("interrupted", 130)

    def _expanded(self, words: Sequence[str]) -> list[str]:
        self._plan = plan(words)
        start = self._plan.start
        Launch.resumes = Launch.typed = None
        if isinstance(start, RestorePoint) and not start.fork:
            Launch.resumes = start.run
        elif isinstance(start, RestorePoint):
            Launch.typed = [t.text for t in self._plan.typed.overrides if not _of_hydra(t.key)]
        # What a checkpoint of an earlier version has stored may hold a secret too.
        return [ADDRESSES.redact(word) for word in self._plan.words]

    def job(self, config: DictConfig) -> float | None:
        """One run under Hydra; returns the average accuracy (class-IL or domain-IL)."""
        # The first job pays for the start of the process; each further one begins here.
        started = Moment(perdure.STARTED, 0.0) if self._is_first else Moment()
        self._is_first = False
        folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
        flag = StopFlag()
        flag.install()
        lock = folder.new_lock()
        try:
            if environment.is_main():
                lock.acquire(_LOCK_PATIENCE if environment.restart_count() else 0.0)
        except UserError as error:
            exit_run(str(error))  # the folder is another run's: nothing in it is touched
        try:
            require_effect(HydraConfig.get())
            validate(config)
            results = rendezvous.from_main("results", lambda: self._finished(config, folder))
            results = results or self._train(config, folder, flag, started)
        except (UserError, OmegaConfBaseException) as error:
            if environment.is_main():
                folder.discard_if_fresh()
            _end_run(folder, UserError(error_messages.explain(error)))
        except PreemptedError as error:
            command = self._command_to_resume(config, folder)
            _end_run(folder, PreemptedError(f"{error}; {command} resumes it"))
        except PeerLostError as error:
            command = self._command_to_resume(config, folder)
            _end_without_peer(folder, error, command)
        except PerdureError as error:
            _end_run(folder, error)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            where = error.filename or folder.path
            _end_run(folder, PerdureError(f"{where}: cannot write there ({error.strerror})"))
        except Exception:
            environment.let_main_speak()
            raise
        finally:
            lock.release()
        if environment.is_main() and not folder.is_complete:
            folder.write_status("finished", 0)
        average: dict[str, float | None] = results["average_accuracy"]
        return next(iter(average.values()))

    def _train(
        self, config: DictConfig, folder: RunFolder, flag: StopFlag, started: Moment
    ) -> dict[str, Any]:
        # What is imported stays; looking through it for garbage costs an eighth of the imports.
        gc.disable()
        from perdure.run.assemble import run

        gc.freeze()
        gc.enable()
        overrides = list(HydraConfig.get().overrides.task)
        start = self._plan.start
        limits = limits_of(config.checkpoint.max_minutes, config.checkpoint.max_gigabytes)
        if environment.is_main():
            folder.begin()
            if environment.restart_count() or config.checkpoint.resume is not None:
                start = folder.latest_intact(limits) or start
        return run(
            config,
            folder.path,
            overrides,
            notices(config),
            start,
            flag,
            _sweep_of(HydraConfig.get()),
            self._plan.typed.config_folders,
            started,
        )

    def _finished(self, config: DictConfig, folder: RunFolder) -> dict[str, Any] | None:
        """The results of the run that has already ended well in `folder`, which is reported."""
        resumes = config.checkpoint.resume is not None or Launch.resumes_in(folder)
        if not resumes and not environment.restart_count():
            return None
        results = folder.results_for(config)
        if results is not None:
            print(f"the run in {folder.path} is finished already; see {folder.results.name}")
        return results

    def _command_to_resume(self, config: DictConfig, folder: RunFolder) -> str:
        plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        return command_to_resume(self._plan.typed, plain, folder.path)


def main(words: Sequence[str] | None = None) -> None:
    """`python train.py`, `perdure train` and `python -m perdure train`.

    Args:
        words: the command line without the program's name; None is that of the process.
    """
    with worded_exit():
        Program()(sys.argv[1:] if words is None else words)


def _of_hydra(key: str) -> bool:
    return key.replace("/", ".").partition(".")[0] == "hydra"


def _sweep_of(hydra_config: Any) -> str | None:
    """The name of the sweep that this run is a job of, in whatever process; None for a lone run."""
    is_lone = OmegaConf.is_missing(hydra_config.job, "num")
    return None if is_lone else Path(hydra_config.sweep.dir).name


# --- ends of a run --------------------------------------------------------------------------------


def _end_run(folder: RunFolder, error: PerdureError) -> NoReturn:
    """Write down why the run in `folder` ends, and end the process with that sentence."""
    if environment.is_main():
        # A run that was refused before it trained stands as it stood.
        if isinstance(error, PreemptedError) or folder.run_status == "failed":
            folder.write_status(error.run_status, error.exit_status)
    elif isinstance(error, PreemptedError):
        sys.exit(error.exit_status)
    exit_run(str(error), error.exit_status)


def _end_without_peer(folder: RunFolder, error: PeerLostError, command: str) -> NoReturn:
    """End a process that cannot continue without the others; rank 0 says so."""
    if environment.is_main():
        folder.write_status(error.run_status, error.exit_status)
        exit_run(
            f"another process of the run ended or did not answer ({error}); {command} resumes it "
            "from the last checkpoint",
            error.exit_status,
        )
    environment.let_main_speak()
    sys.exit(error.exit_status)


@contextmanager
def worded_exit() -> Iterator[None]:
    """Print the sentence with which the process ends."""
    try:
        yield
    except ExitRun as end:
        environment.let_main_speak()
        print(f"perdure: {end.sentence}", file=sys.stderr)
        raise


@contextmanager
def explained(words: Sequence[str]) -> Iterator[None]:
    """End the process in a sentence where a command, what it names or the disk does not allow it.

    Args:
        words: the overrides that were typed.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        exit_run(error_messages.explain(error, words))
    except PerdureError as error:
        exit_run(str(error), error.exit_status)
    except OSError as error:
        exit_run(f"{error.filename}: cannot write there ({error.strerror})", 1)


def words_of(typed: Sequence[str], config_dir: str | None) -> list[str]:
    """What a subcommand composes: overrides as typed, redacted, after its configuration folder.

    Args:
        typed: overrides.
        config_dir: as `--config-dir` names it.
    """
    words = [readable(word) for word in ADDRESSES.command(typed)]
    flags = [] if config_dir is None else [f"--config-dir={config_dir}"]
    import_from_here()
    with explained(words):
        compose.register(Arguments(tuple(flags)).config_folders)
    return [*flags, *words]


def exit_run(sentence: str, status: int = 2) -> NoReturn:
    """End the process (in a sweep in one process, the job), printing `sentence` last."""
    raise ExitRun(sentence, status)
