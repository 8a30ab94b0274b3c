"""Where the configuration files are that come with Perdure."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[3] / "conf"
"""The folder of configuration groups."""
