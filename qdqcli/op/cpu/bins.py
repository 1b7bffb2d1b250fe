"""Counts of elements and errors in bins of equal width: integers, so any order and partition gives the same."""

import numpy as np

from qdqcli.op.value import decode, max_finite


def count_bins(x, y, low, bins_per_unit, error_low, error_bins_per_unit, values, errors):
    """Add to `values` and `errors` the stored elements that are finite in both `x` and `y`."""
    for i in range(x.size):
        v, w = decode(x[i]), decode(y[i])
        if abs(v) <= max_finite(x[i]) and abs(w) <= max_finite(y[i]):
            a = np.float64(v)
            e = np.float64(w) - a
            values[max(min(int((a - low) * bins_per_unit), values.size - 1), 0)] += 1
            errors[max(min(int((e - error_low) * error_bins_per_unit), errors.size - 1), 0)] += 1
