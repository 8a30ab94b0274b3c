"""What a run writes and resumes from: format, ledger, manager, cadence, lock."""
