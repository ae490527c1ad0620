"""How encoded prompts are answered: generated or ranked, in batches whose size never shows in an answer."""
