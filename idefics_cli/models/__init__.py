"""Checkpoints: opening, loading and quantizing them, and what differs between architectures."""
