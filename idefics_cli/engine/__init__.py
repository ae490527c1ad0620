"""How encoded prompts are answered: generated or ranked, in batches whose size never changes an answer."""
