"""Weights in fewer bits: the kinds of quantization, and the quantized weights kept on disk."""
