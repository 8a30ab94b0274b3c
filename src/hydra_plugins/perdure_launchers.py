"""The launchers under the only package in which Hydra looks for plugins; it asks for no torch."""

from __future__ import annotations

from perdure.sweeps import clusters, launchers


class OneProcess(launchers.OneProcess):
    """`hydra/launcher=one_process`, the default."""


class Local(launchers.Local):
    """`hydra/launcher=local`."""


class Slurm(clusters.Slurm):
    """`hydra/launcher=slurm` and `slurm_local`."""


class Ray(clusters.Ray):
    """`hydra/launcher=ray`."""
