"""Sweeps (multirun): many runs from one command; launchers, jobs and the report on them."""
