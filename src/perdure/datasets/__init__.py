"""Data: sources (arrays), scenarios (sequences of tasks), streams (batches), transforms."""
