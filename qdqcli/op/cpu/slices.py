"""Error sums of each slice, and of the patterns of a 16-bit float: one element after another in float64.

Arguments as in `cpu/ranges.py`, columns of sums as in `columns.py`. Pattern p, as an unsigned number, is added in lane
p % 16, times its count; the lanes are then reduced pairwise, like those of a chunk.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import load, pairwise_sum
from qdqcli.op.params import MAX_RANGE, MIN_RANGE
from qdqcli.op.value import decode, max_finite


def sum_slices(x, y, elements, steps, qparams, sums):
    """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""
    for i in range(elements.start, elements.stop):
        s = i // steps.row * steps.advance + i % steps.row // steps.inner - steps.first_slice
        here = i - elements.base
        add_element(x[here], y[here], qparams[MIN_RANGE, s], qparams[MAX_RANGE, s], 1.0, sums[s], sums[s])


@inlined
def add_element(stored, out, lo, hi, times, sums, total):
    """Add an element, so many times, to the five float `sums` and to the other columns of `total`."""
    v, w = decode(stored), decode(out)
    limit = max_finite(stored)
    if not abs(v) <= limit:
        total[columns.NONFINITE] += times
        return
    a, b = np.float64(v), np.float64(w)
    total[columns.INPUT_MIN] = min(total[columns.INPUT_MIN], a)
    total[columns.INPUT_MAX] = max(total[columns.INPUT_MAX], a)
    if not abs(w) <= limit:
        total[columns.NONFINITE_OUTPUT] += times
        return
    e = b - a
    sums[columns.ERROR] += times * e
    sums[columns.ABS_ERROR] += times * abs(e)
    sums[columns.SQ_ERROR] += times * (e * e)
    sums[columns.SQ_INPUT] += times * (a * a)
    sums[columns.SQ_OUTPUT] += times * (b * b)
    total[columns.MAX_ABS_ERROR] = max(total[columns.MAX_ABS_ERROR], abs(e))
    total[columns.CLIPPED] += times * ((v < lo) | (v > hi))
    total[columns.ZEROED] += times * ((v != 0) & (w == 0))


def sum_patterns(counts, occurring, x, y, lo, hi, lanes, total):
    """Fill `total`, a fresh row of sums, from the counts of all patterns of a 16-bit float.

    `occurring` are the patterns whose count is not 0, `x` and `y` their elements and outputs; `lanes` (NUM_SUMS,
    VECTOR_SIZE) are zeros.
    """
    for j in range(occurring.size):
        p = occurring[j]
        add_element(x[j], y[j], lo, hi, np.float64(counts[p]), lanes[:, p % VECTOR_SIZE], total)
    for k in range(columns.NUM_SUMS):
        total[k] = pairwise_sum(load(lanes, k * VECTOR_SIZE))
