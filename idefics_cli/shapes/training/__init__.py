"""How the embedded checkpoint was made: scenes, lessons, both stages, and how often it is right."""
