"""How much memory a checkpoint takes, how much there is, and what fits."""
