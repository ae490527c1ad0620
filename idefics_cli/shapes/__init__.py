"""The embedded checkpoint `shapes`: the world it knows, the lessons that teach it, its training, its accuracy."""
