"""The recorders (loggers, callbacks) of a run: files, console, and W&B where it is configured."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from perdure.config.method_name import method_name
from perdure.config.schema import Config, Screen, WandbConfig, WandbMode
from perdure.errors import UserError, printable
from perdure.ranks import environment
from perdure.run.method_checks import replay_label
from perdure.run.preemption import StopFlag
from perdure.run.resume import RestorePoint
from perdure.tracking.console import Console
from perdure.tracking.events import Recorder, RunStart
from perdure.tracking.files import LocalFiles
from perdure.wandb import record as records
from perdure.wandb.record import Record, name_of, new_id

log = logging.getLogger("perdure")


class NoticeLog(Recorder):
    """Writes to train.log what the user should know at the start, where no console does."""

    name = "notices"

    def on_run_start(self, event: RunStart) -> None:
        """Log the notices as the console does."""
        for notice in event.notices:
            log.info("  note: %s", printable(notice))


def make_recorders(
    config: Config,
    folder: Path | None,
    source: RestorePoint | None,
    sweep: str | None,
    stop: StopFlag,
) -> list[Recorder]:
    """The run's recorders, in the order in which they are notified: files, loggers, console, W&B.

    W&B mirrors what the files hold, so it comes after them, and shows its messages on the console.

    Args:
        config: the configuration.
        folder: the run's folder, or None.
        source: the checkpoint it is resumed from.
        sweep: name of the sweep it belongs to.
        stop: set to end the run when somebody presses Stop at W&B.

    Raises:
        UserError: W&B is configured for a run without a folder.
    """
    recorders: list[Recorder] = []
    say = _print
    if folder is not None:
        recorders.append(LocalFiles(folder, config.tracking.plot_every_seconds, _print))
    recorders += _loggers(config, folder)
    if config.tracking.console is Screen.off:
        recorders.append(NoticeLog())
    else:
        console = Console(plain=True if config.tracking.console is Screen.plain else None)
        recorders.append(console)
        say = console.notify
    mirrored = config.tracking.wandb
    mode = WandbMode.disabled if mirrored is None else mirrored.mode or _mode()
    if mirrored is not None and mode is not WandbMode.disabled:
        recorders.append(_wandb(config, mirrored, folder, source, sweep, stop, say, mode))
    return recorders


def _loggers(config: Config, folder: Path | None) -> list[Recorder]:
    """Those that are configured beside the files of every run, each imported where it is used.

    Raises:
        UserError: one is configured for a run without a folder, or its package is missing.
    """
    loggers: list[Recorder] = []
    for key in ("csv", "tensorboard"):
        if getattr(config.tracking, key) and folder is None:
            raise UserError(f"tracking.{key}=true: writes to the run's folder: give it one")
    if folder is not None and config.tracking.csv:
        from perdure.tracking.metrics_csv import MetricsCSV

        loggers.append(MetricsCSV(folder))
    if folder is not None and config.tracking.tensorboard:
        from perdure.tracking.tensorboard import TensorBoard

        loggers.append(TensorBoard(folder))
    return loggers


def _mode() -> WandbMode:
    """As the environment sets it, else whether a key is there."""
    from perdure.wandb.session import key_configured

    name = os.environ.get("WANDB_MODE", "").lower()
    if name in WandbMode.__members__:
        return WandbMode[name]
    return WandbMode.online if key_configured() else WandbMode.offline


def _wandb(
    config: Config,
    options: WandbConfig,
    folder: Path | None,
    source: RestorePoint | None,
    sweep: str | None,
    stop: StopFlag,
    say: Callable[[str], None],
    mode: WandbMode,
) -> Recorder:
    from perdure.wandb.recorder import WandB

    if folder is None:
        raise UserError("tracking=wandb mirrors the run's folder: give the run one (folder=…)")
    continues = source is not None and not source.fork
    if continues and source is not None and source.artifact:  # the address that was typed
        entity, project, _ = source.artifact.split("/")
        options = replace(options, entity=entity, project=project)
    resumed = config.checkpoint.resume is not None or environment.restart_count() > 0
    record = records.load(folder) if continues or resumed else None
    if record is not None:
        _require_place(record, options, folder)
    elif continues and source is not None and source.run_id:
        record = _new_record(config, options, folder, sweep, source)
        record.id, record.name = source.run_id, options.name
    return WandB(
        folder,
        record or _new_record(config, options, folder, sweep, source),
        online=mode is WandbMode.online,
        continues=continues,
        recorded=record is not None,
        on_error=options.on_error.name,
        artifacts=options.artifacts,
        finish_seconds=options.finish_seconds,
        notify=say,
        on_stop=lambda: stop.ask("stopped from its W&B page"),
    )


def _require_place(record: Record, options: WandbConfig, folder: Path) -> None:
    """The command line decides where rows are sent, never a file of the run's folder.

    Raises:
        UserError: they differ.
    """
    differs = record.entity is not None and options.entity not in (None, record.entity)
    if record.project != options.project or differs:
        place = {"entity": record.entity, "project": record.project}
        keys = " ".join(f"tracking.wandb.{key}={name}" for key, name in place.items() if name)
        raise UserError(
            f"{folder / records.NAME}: this run is mirrored elsewhere than this command says: add "
            f"{keys} to continue there, or remove that file to mirror it as a new run"
        )
    record.entity = options.entity


def _new_record(
    config: Config,
    options: WandbConfig,
    folder: Path,
    sweep: str | None,
    source: RestorePoint | None,
) -> Record:
    size = replay_label(config)
    name = name_of(method_name(config), config.dataset.name, size, config.seed)
    return Record(
        id=new_id(config.timestamp, folder.name if sweep else None),
        project=options.project,
        entity=options.entity,
        name=options.name or name,
        group=options.group or sweep,
        job_type=options.job_type,
        tags=list(options.tags),
        notes=options.notes,
        inputs=_inputs(source),
    )


def _inputs(source: RestorePoint | None) -> list[str]:
    """The artifact that the run starts from, where its checkpoint came from W&B or was sent there.

    Whoever continues a run does so in the run that made the artifact, and does not use it.
    """
    from perdure.checkpoint.core import sidecars
    from perdure.checkpoint.core.format import committed

    if source is None or not source.fork:
        return []
    record = records.load(source.path.parent.parent)
    found = source.artifact
    if found is None and record is not None and sidecars.path_of(source.path).is_file():
        found = record.artifact_of(committed(source.path)["sha256"])
    return [found] if found else []


def _print(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    log.info("%s", sentence)
