"""Weights in fewer bits: the kinds there are, and the quantized weights kept on disk."""
