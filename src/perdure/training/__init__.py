"""The loop, evaluation, and the state that must survive."""
