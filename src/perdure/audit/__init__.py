"""Audits of a method: checks by machine that what it claims is so (leaks, exactness, memory)."""
