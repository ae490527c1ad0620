"""Several workers that answer one command: which is asked next, and what happens to the requests of a lost one."""
