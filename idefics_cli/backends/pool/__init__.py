"""Several workers that answer one command: who is asked next, what becomes of what a lost one had."""
