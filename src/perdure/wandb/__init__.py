"""Weights & Biases as a mirror of the run's folder: what is on disk is the truth.

`rows` converts lines of metrics.jsonl, `record` is the id of the run that mirrors a folder,
`upload_queue` holds pending uploads, `session` is the one place that calls the client, `mirror`
sends what the server lacks, `recorder` runs it while training, `sync` afterwards. `artifacts`
fetches checkpoints from there, `artifact_download` their files.
"""
