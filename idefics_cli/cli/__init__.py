"""The shell: commands, options, output. Everything that knows a terminal is in here."""
