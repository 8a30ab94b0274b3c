"""How well a learner keeps what it learned.

`functional` is plain Python; `continual` holds torchmetrics. Neither is imported here, so that
`functional` costs nothing.
"""
