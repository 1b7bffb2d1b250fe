"""Error statistics: mergeable sums of quantization errors, and the metrics computed from them."""
