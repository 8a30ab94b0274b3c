"""Sets of runs: read, grouped, summarized, compared. Nothing here imports torch."""
