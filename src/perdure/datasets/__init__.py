"""Benchmarks and data: sources (arrays), scenarios (tasks), streams (batches), transforms."""
