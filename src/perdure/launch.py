"""What lies between the command line and a run: Hydra's hooks, the run's folder, worded errors.

Nothing here imports torch, so that `--help` and a user's mistake are answered at once.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perdure import wording
from perdure.config import Config, validate
from perdure.errors import DivergenceError, UserError
from perdure.recipes import by_buffer_size, notices

TIMESTAMP = "%Y%m%d-%H%M%S"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_FRESH = {".hydra", "train.log"}
_reserving = False


def register() -> None:
    """Make the schema and the resolvers known to Hydra; needed before anything is composed."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_timestamp", run_timestamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("by_buffer_size", by_buffer_size, replace=True)


def run_timestamp(root: str) -> str:
    """The run's time to the second, unlike that of any other run under `root`.

    While a run starts, the folder of this name is made at once, so that two commands that start
    in the same second get two: the later one takes the next free second.
    """
    moment = datetime.now()
    while _reserving:
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            (Path(root) / moment.strftime(TIMESTAMP)).mkdir()
            break
        except FileExistsError:
            moment += timedelta(seconds=1)
        except OSError as error:
            raise UserError(f"output_root={root}: cannot write there ({error.strerror})") from None
    return moment.strftime(TIMESTAMP)


class Launch(Callback):
    """Checks the configuration and reserves the folder before Hydra makes anything."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._prepare(config, "sweep")

    @staticmethod
    def _prepare(config: DictConfig, mode: str) -> None:
        global _reserving
        try:
            validate(config)
            raw = OmegaConf.to_container(config.hydra[mode], resolve=False)
            _reserving = isinstance(raw, dict) and "${timestamp}" in str(raw["dir"])
            folder = Path(config.hydra[mode].dir)
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "Permission denied", str(folder))
        except (UserError, OSError, OmegaConfBaseException) as error:
            stop(wording.explain(error))
        finally:
            _reserving = False


def job(config: DictConfig) -> float | None:
    """One run under Hydra; returns the average accuracy (class-IL or domain-IL)."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    overrides = list(hydra.overrides.task)
    try:
        validate(config)
        from perdure.run import run

        results = run(config, folder, overrides, notices(config, overrides))
    except (UserError, OmegaConfBaseException) as error:
        discard(folder)
        stop(wording.explain(error))
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except DivergenceError as error:
        stop(str(error), 1)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        stop(f"{error.filename or folder}: cannot write there ({error.strerror})", 1)
    average: dict[str, float | None] = results["average_accuracy"]
    return next(iter(average.values()))


def command_line(main: Callable[[], Any]) -> None:
    """Run Hydra's `main`; a user's mistake ends in one sentence and exit status 2."""
    register()
    traceback_wanted = "HYDRA_FULL_ERROR" in os.environ
    # Without this Hydra prints its own long text and exits with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if traceback_wanted:
            raise
        stop(wording.explain(error))
    except KeyboardInterrupt:
        stop("interrupted", 130)


def stop(sentence: str, status: int = 2) -> NoReturn:
    """Say `sentence` and end the process."""
    print(f"perdure: {sentence}", file=sys.stderr)
    sys.exit(status)


def discard(folder: Path) -> None:
    """Take away a run folder in which nothing has happened yet."""
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= _FRESH:
        shutil.rmtree(folder)
