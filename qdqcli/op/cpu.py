"""The op's loops for the CPU: elements of a part of a tensor, slice by slice, and the error sums.

Every kernel works on the elements [start, stop) of a flat tensor, of which `x[0]` is element `base`; slices follow from
a `Layout` (inner, row, advance), and the first slice that an array of slices describes is `first_slice`. Kernels are
serial and hold no lock: callers run them in threads of their own. The `*_parallel` ones are for whole arrays in memory
and are entered by one thread at a time (Numba's fallback threading layer aborts the process otherwise).

Order of addition, on which the bits of every statistic rest: a chunk is CHUNK_ELEMENTS elements from a multiple of it
on; element i of a chunk is added in lane i % 16, each lane in float64 one element after another; the lanes are then
added pairwise, k and k + 8, k and k + 4, k and k + 2, k and k + 1. Elements that are left out add nothing.
"""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from qdqcli.op.kernel_cache import kernel
from qdqcli.op.value import (
    clamp,
    decode,
    encode,
    flush,
    grid,
    is_degenerate,
    largest,
    needs_flush,
    order_key,
    quantize_half_to_even,
    quantize_half_up,
    straight_through,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

LANES = 16
NO_MIN = np.int64(2**63 - 1)
NO_MAX = np.int64(-(2**63))
"""Keys of a slice in which no number was seen yet."""

MIN_RANGE, MAX_RANGE, SCALE, INVERSE_SCALE = range(4)
"""Columns of a grid, one row per slice."""
GRID_COLUMNS = 4

(
    ERROR,
    ABS_ERROR,
    SQ_ERROR,
    SQ_INPUT,
    ERROR_INPUT,
    MAX_ABS_ERROR,
    INPUT_MIN,
    INPUT_MAX,
    NONFINITE,
    NONFINITE_OUTPUT,
    CLIPPED,
    ZEROED,
) = range(12)
"""Columns of error sums, one row per chunk or slice; the counts are exact in float64."""
SUM_COLUMNS = 12
NUM_SUMS = 5
"""The first columns, which are sums of floats."""


def empty_sums(count: int) -> NDArray[np.float64]:
    """Rows (count, SUM_COLUMNS) to which nothing was added yet."""
    sums = np.zeros((count, SUM_COLUMNS))
    sums[:, INPUT_MIN], sums[:, INPUT_MAX] = np.inf, -np.inf
    return sums


@kernel()
def measure_range(x, base, start, stop, inner, row, advance, first_slice, keys):  # type: ignore[no-untyped-def]
    """Widen `keys` (slices, 2) by the order keys of the smallest and largest element that is not NaN."""
    i = start
    while i < stop:
        column = i % row
        end = min(i - column + min(column - column % inner + inner, row), stop)
        s = i // row * advance + column // inner - first_slice
        lo, hi = keys[s, 0], keys[s, 1]
        run = x[i - base : end - base]
        for j in range(run.size):
            v = decode(run[j])
            key = np.int64(order_key(v))
            is_number = v == v
            lo = key if is_number and key < lo else lo
            hi = key if is_number and key > hi else hi
        keys[s, 0], keys[s, 1] = lo, hi
        i = end


@kernel()
def make_grids(ends, q_min, q_max, range_given, like, grids, flushing, degenerate):  # type: ignore[no-untyped-def]
    """From the ends (slices, 2) of ranges to `grids` (slices, 4); marks slices to flush and degenerate ones."""
    for s in range(ends.shape[0]):
        lo, hi = flush(ends[s, 0], like), flush(ends[s, 1], like)
        lo, hi, scale, inverse = grid(lo, hi, q_min, q_max, like)
        grids[s, MIN_RANGE], grids[s, MAX_RANGE] = lo, hi
        grids[s, SCALE], grids[s, INVERSE_SCALE] = scale, inverse
        flushing[s] = needs_flush(lo, hi, scale, range_given, like)
        degenerate[s] = is_degenerate(scale, like)


@kernel()
def _quantize_run(x, y, grid_row, flushing, clamping, half_up, like):  # type: ignore[no-untyped-def]
    lo, hi, scale, inverse = grid_row[MIN_RANGE], grid_row[MAX_RANGE], grid_row[SCALE], grid_row[INVERSE_SCALE]
    if half_up:
        for j in range(x.size):
            v = decode(x[j])
            v = flush(v, like) if flushing else v
            v = clamp(v, lo, hi) if clamping else v
            y[j] = encode(quantize_half_up(v, scale, inverse, like), x[j])
    else:
        for j in range(x.size):
            v = decode(x[j])
            v = flush(v, like) if flushing else v
            v = clamp(v, lo, hi) if clamping else v
            y[j] = encode(quantize_half_to_even(v, scale, inverse, like), x[j])


@kernel()
def quantize(  # type: ignore[no-untyped-def]
    x, y, base, start, stop, inner, row, advance, first_slice, grids, flushing, clamping, half_up, like
):
    """Quantize and dequantize the elements into `y`, which may be `x`."""
    i = start
    while i < stop:
        column = i % row
        end = min(i - column + min(column - column % inner + inner, row), stop)
        s = i // row * advance + column // inner - first_slice
        here, there = i - base, end - base
        _quantize_run(x[here:there], y[here:there], grids[s], flushing[s], clamping, half_up, like)
        i = end


@kernel()
def sum_errors(  # type: ignore[no-untyped-def]
    x, y, base, start, stop, inner, row, advance, first_slice, grids, degenerate, sums
):
    """Add to `sums` (chunks, SUM_COLUMNS), fresh, row 0 the chunk that begins at `start`; mark degenerate slices."""
    lanes = np.empty((NUM_SUMS, LANES))
    for chunk in range(sums.shape[0]):
        total = sums[chunk]
        lanes[:] = 0.0
        first = start + chunk * CHUNK_ELEMENTS
        last = min(first + CHUNK_ELEMENTS, stop)
        i = first
        while i < last:
            column = i % row
            end = min(i - column + min(column - column % inner + inner, row), last)
            s = i // row * advance + column // inner - first_slice
            here, there = i - base, end - base
            if _add_run(x[here:there], y[here:there], grids[s], i - first, lanes, total):
                degenerate[s] = True
            i = end
        for k in range(NUM_SUMS):
            total[k] = _tree(lanes[k])


@kernel()
def sum_slice_errors(  # type: ignore[no-untyped-def]
    x, y, base, start, stop, inner, row, advance, first_slice, grids, sums
):
    """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""
    lane = np.empty((NUM_SUMS, 1))
    i = start
    while i < stop:
        column = i % row
        end = min(i - column + min(column - column % inner + inner, row), stop)
        s = i // row * advance + column // inner - first_slice
        lane[:, 0] = sums[s, :NUM_SUMS]
        _add_run(x[i - base : end - base], y[i - base : end - base], grids[s], 0, lane, sums[s])
        sums[s, :NUM_SUMS] = lane[:, 0]
        i = end


@kernel()
def _add_run(x, y, grid_row, lane, lanes, total):  # type: ignore[no-untyped-def]
    """Add the elements of one slice, the first in `lane`; whether a finite one became infinite or NaN."""
    lo, hi = grid_row[MIN_RANGE], grid_row[MAX_RANGE]
    limit = largest(x[0])
    broken = False
    for j in range(x.size):
        v, w = decode(x[j]), decode(y[j])
        if not abs(v) <= limit:
            total[NONFINITE] += 1
        elif not abs(w) <= limit:
            total[NONFINITE_OUTPUT] += 1
            broken = True
        else:
            a = np.float64(v)
            e = np.float64(w) - a
            k = (lane + j) % lanes.shape[1]
            lanes[ERROR, k] += e
            lanes[ABS_ERROR, k] += abs(e)
            lanes[SQ_ERROR, k] += e * e
            lanes[SQ_INPUT, k] += a * a
            lanes[ERROR_INPUT, k] += e * a
            total[MAX_ABS_ERROR] = max(total[MAX_ABS_ERROR], abs(e))
            total[INPUT_MIN] = min(total[INPUT_MIN], a)
            total[INPUT_MAX] = max(total[INPUT_MAX], a)
            total[CLIPPED] += v < lo or v > hi
            total[ZEROED] += v != 0 and w == 0
    return broken


@kernel()
def _tree(lane):  # type: ignore[no-untyped-def]
    """The sum of 16 lanes, pairwise from the far half on."""
    half = LANES // 2
    while half:
        for k in range(half):
            lane[k] += lane[k + half]
        half //= 2
    return lane[0]


@kernel()
def differentiate(  # type: ignore[no-untyped-def]
    gradients, x, out, base, start, stop, inner, row, advance, first_slice, ends, like
):
    """The op's gradient: `gradients` where x is inside `ends` (slices, 2); returns the number outside."""
    outside = 0
    i = start
    while i < stop:
        column = i % row
        end = min(i - column + min(column - column % inner + inner, row), stop)
        s = i // row * advance + column // inner - first_slice
        lo, hi = flush(ends[s, 0], like), flush(ends[s, 1], like)
        for j in range(i - base, end - base):
            v = flush(decode(x[j]), like)
            out[j] = encode(straight_through(decode(gradients[j]), v, lo, hi, like), x[j])
            outside += not (v >= lo and v <= hi)
        i = end
    return outside


@kernel(parallel=True)
def measure_range_parallel(x, bounds, first_slices, rows, inner, row, advance, keys):  # type: ignore[no-untyped-def]
    """`measure_range` of a whole array: part p, from bounds[p] to bounds[p + 1], widens `keys` from rows[p] on."""
    for p in prange(bounds.size - 1):
        measure_range(x, 0, bounds[p], bounds[p + 1], inner, row, advance, first_slices[p], keys[rows[p] :])


@kernel(parallel=True)
def quantize_parallel(  # type: ignore[no-untyped-def]
    x, y, bounds, inner, row, advance, grids, flushing, clamping, half_up, like
):
    """`quantize` of a whole array, part by part."""
    for p in prange(bounds.size - 1):
        quantize(x, y, 0, bounds[p], bounds[p + 1], inner, row, advance, 0, grids, flushing, clamping, half_up, like)
