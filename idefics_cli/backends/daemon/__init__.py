"""A model that an `idefics serve` of the same user keeps loaded."""
