"""Weights & Biases as a mirror of the run's folder: what is on disk is the truth.

`rows` says how a line of metrics.jsonl looks there, `record` which run mirrors a folder, `outbox`
what waits to be uploaded, `session` is the one place that talks to the client, `mirror` brings the
server to what the folder holds, and `recorder` lets it do so while a run goes on.
"""
