"""References to checkpoints elsewhere, and the cache of what was fetched."""
