"""CPU loops that count elements, by the 65,536 patterns of a 16-bit float or in bins of equal width.

Counts are integers: any order and any partition gives the same.
"""

import numpy as np

from qdqcli.op.jit.register import inlined
from qdqcli.op.value import decode, max_finite

_LOW = np.uint64(0xFFFF)


@inlined
def count_in_tables(words, tables):
    """Count the patterns in `words`, four to a uint64, into `tables` (2, 65536) of uint32.

    Two alternating tables: where one value dominates (pruned weights), each increment waits for the previous one in its
    table. A core stores to its cache once per cycle, so one element per cycle is the limit.
    """
    one = np.uint32(1)
    even, odd = tables[0], tables[1]
    for word in words:
        even[word & _LOW] += one
        odd[(word >> np.uint64(16)) & _LOW] += one
        even[(word >> np.uint64(32)) & _LOW] += one
        odd[word >> np.uint64(48)] += one


def count_patterns(words, rest, tables):
    """Count the patterns in `words`, and those in `rest`, uint16."""
    count_in_tables(words, tables)
    for pattern in rest:
        tables[0, pattern] += np.uint32(1)


def count_bins(x, y, low, bins_per_unit, error_low, error_bins_per_unit, values, errors):
    """Add to `values` and `errors` the stored elements that are finite in both `x` and `y`."""
    for i in range(x.size):
        v, w = decode(x[i]), decode(y[i])
        if abs(v) <= max_finite(x[i]) and abs(w) <= max_finite(y[i]):
            a = np.float64(v)
            e = np.float64(w) - a
            values[max(min(int((a - low) * bins_per_unit), values.size - 1), 0)] += 1
            errors[max(min(int((e - error_low) * error_bins_per_unit), errors.size - 1), 0)] += 1
