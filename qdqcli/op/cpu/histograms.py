"""CPU loops over the 65,536 patterns of a 16-bit float: count them once, then sum the errors of any settings.

Columns of sums as in `columns.py`. Order of addition: pattern p, as an unsigned number, is added in lane p % 16, times
its count, one pattern after another, all in float64; the lanes are then reduced pairwise, like those of a chunk.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.cpu.slices import add_element
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import load, pairwise_sum

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


def sum_patterns(counts, x, y, lo, hi, lanes, total):
    """Fill `total`, a fresh row of sums, from the counts of all patterns `x` and their outputs `y`.

    `lanes` (NUM_SUMS, VECTOR_SIZE) are zeros.
    """
    for p in range(counts.size):
        if counts[p] > 0:
            add_element(x[p], y[p], lo, hi, np.float64(counts[p]), lanes[:, p % VECTOR_SIZE], total)
    for k in range(columns.NUM_SUMS):
        total[k] = pairwise_sum(load(lanes, k * VECTOR_SIZE))
