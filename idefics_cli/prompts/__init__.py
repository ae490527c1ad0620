"""Prompts: the wording of tasks in YAML, shots, items, and the request that they make together."""
