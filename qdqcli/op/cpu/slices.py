"""Error sums of each slice, one element at a time in float64, and the extremes of finite elements.

Arguments as in `cpu/ranges.py`.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.params import MAX_RANGE, MIN_RANGE
from qdqcli.op.primitives import add
from qdqcli.op.value import decode, max_finite


def sum_slices(x, y, elements, steps, qparams, sums):
    """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""
    for i in range(elements.start, elements.stop):
        s = i // steps.row * steps.advance + i % steps.row // steps.inner - steps.first_slice
        here = i - elements.base
        add_element(x[here], y[here], qparams[MIN_RANGE, s], qparams[MAX_RANGE, s], sums[s], sums[s])


@inlined
def add_element(stored, out, lo, hi, sums, total):
    """Add one element to the five float `sums` and to the other columns of `total`."""
    v, w = decode(stored), decode(out)
    limit = max_finite(stored)
    if not abs(v) <= limit:
        total[columns.NONFINITE] += 1
        return
    a, b = np.float64(v), np.float64(w)
    total[columns.INPUT_MIN] = min(total[columns.INPUT_MIN], a)
    total[columns.INPUT_MAX] = max(total[columns.INPUT_MAX], a)
    if not abs(w) <= limit:
        total[columns.NONFINITE_OUTPUT] += 1
        return
    e = add(b, -a)
    sums[columns.ERROR] += e
    sums[columns.ABS_ERROR] += abs(e)
    sums[columns.SQ_ERROR] = add(sums[columns.SQ_ERROR], e * e)
    sums[columns.SQ_INPUT] = add(sums[columns.SQ_INPUT], a * a)
    sums[columns.SQ_OUTPUT] = add(sums[columns.SQ_OUTPUT], b * b)
    total[columns.MAX_ABS_ERROR] = max(total[columns.MAX_ABS_ERROR], abs(e))
    total[columns.CLIPPED] += (v < lo) | (v > hi)
    total[columns.ZEROED] += (v != 0) & (w == 0)


@inlined
def pairwise_sum_scalar(lane):
    """Pairwise sum of the lanes, far half onto near half."""
    half = VECTOR_SIZE // 2
    while half:
        for k in range(half):
            lane[k] += lane[k + half]
        half //= 2
    return lane[0]


def finite_extremes(x, extremes):
    """Fill `extremes` (2,) with the smallest and the largest finite element; (inf, -inf) where there is none."""
    lo, hi = np.inf, -np.inf
    for stored in x:
        v = decode(stored)
        if abs(v) <= max_finite(stored):
            lo, hi = min(lo, np.float64(v)), max(hi, np.float64(v))
    extremes[0], extremes[1] = lo, hi
