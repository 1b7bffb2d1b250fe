"""The error sums between two arrays that are there already; `x` and `y` hold stored elements, each of its own dtype.

Order of addition and columns as in `cpu_quantize.py`, so a checkpoint that was written measures as it did when it was
made. `x[0]` and `y[0]` are a chunk's first elements; `sums` has a row for each chunk.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import cpu
from qdqcli.op.cpu_careful import tree
from qdqcli.op.cpu_quantize import (
    ABS_ERROR,
    ERROR,
    ERROR_INPUT,
    INPUT_MAX,
    INPUT_MIN,
    MAX_ABS_ERROR,
    NONFINITE,
    NONFINITE_OUTPUT,
    NUM_SUMS,
    SQ_ERROR,
    SQ_INPUT,
    ZEROED,
    empty_sums,
)
from qdqcli.op.kernel_cache import kernel
from qdqcli.op.lanes import (
    LANES,
    count,
    first_lanes,
    greatest,
    larger,
    load_part,
    smaller,
    splat,
    tree_sum,
)
from qdqcli.op.primitives import select, widen_to_double
from qdqcli.op.value import decode, largest
from qdqcli.stats.sums import CHUNK_ELEMENTS


def sum_differences(x: NDArray[Any], y: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """The sums (chunks, SUM_COLUMNS) of y - x; `dtype` is that of `x`, and clipping is not known."""
    sums = empty_sums(-(-len(x) // CHUNK_ELEMENTS))
    _sum_chunks(x, y, sums)
    for chunk in np.flatnonzero(~np.isfinite(sums[:, ABS_ERROR])):
        sums[chunk] = empty_sums(1)[0]
        part = slice(chunk * CHUNK_ELEMENTS, (chunk + 1) * CHUNK_ELEMENTS)
        _sum_carefully(x[part], y[part], sums[chunk])
    if len(x):
        sums[0, [INPUT_MIN, INPUT_MAX]] = cpu.extremes(x, dtype)
    return sums


@kernel()
def _sum_chunks(x, y, sums):
    """All rows; one whose ABS_ERROR is not finite met elements that are not."""
    for chunk in range(sums.shape[0]):
        i = chunk * CHUNK_ELEMENTS
        last = smaller(i + CHUNK_ELEMENTS, x.size)
        error = abs_error = sq_error = sq_input = error_input = peak = splat(0.0)
        zeroed = 0
        while i < last:
            valid = first_lanes(smaller(LANES, last - i))  # lanes beyond hold zeros, which add nothing
            v = decode(select(valid, load_part(x, i, last - i), 0))
            w = decode(select(valid, load_part(y, i, last - i), 0))
            a = widen_to_double(v)
            e = widen_to_double(w) - a
            error = error + e
            abs_error = abs_error + abs(e)
            sq_error = sq_error + e * e
            sq_input = sq_input + a * a
            error_input = error_input + e * a
            peak = larger(abs(e), peak)
            zeroed += count((widen_to_double(w) == 0.0) & (a != 0.0))
            i += LANES
        sums[chunk, ERROR] = tree_sum(error)
        sums[chunk, ABS_ERROR] = tree_sum(abs_error)
        sums[chunk, SQ_ERROR] = tree_sum(sq_error)
        sums[chunk, SQ_INPUT] = tree_sum(sq_input)
        sums[chunk, ERROR_INPUT] = tree_sum(error_input)
        sums[chunk, MAX_ABS_ERROR] = greatest(peak)
        sums[chunk, ZEROED] = zeroed


@kernel()
def _sum_carefully(x, y, total):
    """One chunk, an element at a time, into its fresh row."""
    lanes = np.zeros((NUM_SUMS, LANES))
    for i in range(x.size):
        v, w = decode(x[i]), decode(y[i])
        if not abs(v) <= largest(x[i]):
            total[NONFINITE] += 1
        elif not abs(w) <= largest(y[i]):
            total[NONFINITE_OUTPUT] += 1
        else:
            a = np.float64(v)
            e = np.float64(w) - a
            lane = i % LANES
            lanes[ERROR, lane] += e
            lanes[ABS_ERROR, lane] += abs(e)
            lanes[SQ_ERROR, lane] += e * e
            lanes[SQ_INPUT, lane] += a * a
            lanes[ERROR_INPUT, lane] += e * a
            total[MAX_ABS_ERROR] = max(total[MAX_ABS_ERROR], abs(e))
            total[ZEROED] += (v != 0) & (w == 0)
    for k in range(NUM_SUMS):
        total[k] = tree(lanes[k])
