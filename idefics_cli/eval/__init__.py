"""How good answers are: rows held against references, by metrics whose formulas are published elsewhere."""
