"""Answers encoded prompts by generation or ranking, in batches whose size never changes an answer."""
