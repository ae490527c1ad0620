"""Checkpoints on the hub and in its cache: finding, downloading and removing them, and why one cannot be read."""
