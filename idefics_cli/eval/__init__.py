"""How good answers are: rows compared with references, by metrics with published formulas."""
