"""Recorders (loggers, callbacks): the console, results and metrics files, the report of a run."""

from perdure.tracking.console import Console
from perdure.tracking.events import Recorder
from perdure.tracking.files import LocalFiles

__all__ = ["Console", "LocalFiles", "Recorder"]
