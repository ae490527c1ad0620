"""What `idefics doctor` checks: the machine, and the embedded checkpoint in each precision. Knows no terminal."""
