"""Checkpoints on the hub and in its cache: found, fetched, removed, and why one cannot be read."""
