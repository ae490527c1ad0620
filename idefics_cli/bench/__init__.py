"""Measuring: the same work done by the task guide's script, by hand-made batches and by this program."""
