"""How good answers are: rows compared with references, by metrics whose formulas are published elsewhere."""
