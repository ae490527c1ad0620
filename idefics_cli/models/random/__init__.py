"""Checkpoints of random weights, made without a download."""
