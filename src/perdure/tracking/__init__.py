"""Recorders: they listen to a run's events and show it, or write it down."""

from perdure.tracking.console import Console
from perdure.tracking.events import Recorder
from perdure.tracking.files import LocalFiles

__all__ = ["Console", "LocalFiles", "Recorder"]
