"""Prompts: templates of tasks in YAML, examples, items, and the request made of them."""
