"""Metrics: accuracy matrix, average accuracy, forgetting, backward and forward transfer, ….

`functional` is plain Python; `continual` holds torchmetrics. Neither is imported here, so that
`functional` costs nothing.
"""
