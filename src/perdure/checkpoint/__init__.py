"""Files that hold a run's state: what is in them, and when they are written."""
