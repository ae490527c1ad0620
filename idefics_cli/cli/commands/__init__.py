"""One file for each command: its name, its options, its help. What it does is beside this folder."""
