"""Metrics: accuracy matrix, average accuracy, forgetting, backward and forward transfer, ….

`functional` defines them, in plain Python; `counts` and `confusion` are what a run counts with;
`continual` has them as torchmetrics. None is imported here, so that torchmetrics (and with it
matplotlib and SciPy) is imported by `perdure.metrics.continual` alone.
"""
