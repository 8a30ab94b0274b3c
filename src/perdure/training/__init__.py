"""The trainer: training step, replay, optimizer, evaluation, and the state that is saved."""
