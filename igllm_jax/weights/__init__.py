"""Weights on disk and in a run: base folders, checkpoints, a run's model."""
