"""Workers on the machines of a Ray cluster. Ray is imported here and nowhere else, and only where one is asked for."""
