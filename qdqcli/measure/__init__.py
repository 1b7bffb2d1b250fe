"""Measurement of one tensor: ranges, quantization, error sums."""
