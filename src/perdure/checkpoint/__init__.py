"""Checkpoints: writing and reading them, retention, references, files of other programs."""
