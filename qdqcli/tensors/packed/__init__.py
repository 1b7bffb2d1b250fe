"""Packed weights: codes, scales and zero points of weights that are quantized already."""
