"""What `idefics doctor` looks at: the machine, and the embedded checkpoint in each precision. Knows no terminal."""
