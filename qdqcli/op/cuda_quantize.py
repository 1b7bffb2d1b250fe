"""CUDA's kernels from values to values: quantize and dequantize, alone or with the error sums; patterns; the gradient.

The order of addition is that of `cpu_quantize.py`, so the sums are the same bits. A block of threads has a chunk: all
of them turn a tile of it into terms, in shared memory, then each sum of each lane has a thread that adds its terms one
after another. Elements that are left out put down zeros, which change no sum.

`place` tells the slice of an element, see `cuda_place.py`.
"""

import numpy as np

from qdqcli.op.cpu_careful import add_element
from qdqcli.op.cpu_quantize import (
    ABS_ERROR,
    CLIPPED,
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
    SUM_COLUMNS,
    ZEROED,
)
from qdqcli.op.cpu_range import DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.cuda_place import slice_at
from qdqcli.op.cuda_range import THREADS
from qdqcli.op.cuda_target import cuda, device_kernel
from qdqcli.op.internal import inlined
from qdqcli.op.lanes import LANES
from qdqcli.op.primitives import add, narrow
from qdqcli.op.value import (
    clamp,
    decode,
    encode,
    flush,
    largest,
    pattern,
    quantize_half_to_even,
    quantize_half_up,
    straight_through,
    value_of_pattern,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

TILE = 2 * THREADS
"""Elements whose terms are in shared memory at once: 20 KiB, so that eight blocks fit on a multiprocessor."""
ADDERS = NUM_SUMS * LANES
_TERMS = NUM_SUMS * TILE
_NUM_COUNTS = 7
"""What each thread keeps beside the sums: three extremes and four counts."""


@inlined
def _requantized(stored, s, grids, flags, clamping, half_up, like):
    """The pattern of what becomes of a stored element of slice `s`; the conditions are the same for all threads."""
    lo, hi, scale, inverse = grids[MIN_RANGE, s], grids[MAX_RANGE, s], grids[SCALE, s], grids[INVERSE_SCALE, s]
    v = decode(stored)
    if flags[FLUSHING, s]:
        v = flush(v, like)
    if clamping:
        v = clamp(v, lo, hi)
    if half_up:
        return pattern(quantize_half_up(v, scale, inverse, like), stored)
    return pattern(quantize_half_to_even(v, scale, inverse, like), stored)


@device_kernel
def quantize(x, y, first, n, place, grids, flags, clamping, half_up, like):
    """Quantize and dequantize the elements [first, first + n) of `x` into `y`; `place` counts from `first`."""
    i, step = cuda.grid(1), cuda.gridsize(1)
    while i + 3 * step < n:  # four loads under way at once
        a, b, c, d = x[first + i], x[first + i + step], x[first + i + 2 * step], x[first + i + 3 * step]
        j, k, l = i + step, i + 2 * step, i + 3 * step  # noqa: E741
        y[first + i] = narrow(_requantized(a, slice_at(i, place), grids, flags, clamping, half_up, like), a)
        y[first + j] = narrow(_requantized(b, slice_at(j, place), grids, flags, clamping, half_up, like), b)
        y[first + k] = narrow(_requantized(c, slice_at(k, place), grids, flags, clamping, half_up, like), c)
        y[first + l] = narrow(_requantized(d, slice_at(l, place), grids, flags, clamping, half_up, like), d)
        i += 4 * step
    while i < n:
        a = x[first + i]
        y[first + i] = narrow(_requantized(a, slice_at(i, place), grids, flags, clamping, half_up, like), a)
        i += step


@inlined
def _put_terms(stored, out, at, terms):
    """Lay down the five terms of a finite element; its value and its error, as float64."""
    a = np.float64(decode(stored))
    e = add(np.float64(value_of_pattern(out, stored)), -a)
    terms[ERROR * TILE + at] = e
    terms[ABS_ERROR * TILE + at] = abs(e)
    terms[SQ_ERROR * TILE + at] = e * e
    terms[SQ_INPUT * TILE + at] = a * a
    terms[ERROR_INPUT * TILE + at] = e * a
    return a, abs(e)


@inlined
def _put_nothing(at, terms):
    for k in range(NUM_SUMS):
        terms[k * TILE + at] = 0.0


@device_kernel
def quantize_and_sum(x, y, keep, n, place, grids, flags, clamping, half_up, like, sums):
    """Quantize the `n` elements of `x`, into `y` if `keep`, and fill `sums` (chunks, SUM_COLUMNS), a chunk per block.

    Slices that became infinite or NaN are marked in `flags`.
    """
    terms = cuda.shared.array(_TERMS, np.float64)
    lanes = cuda.shared.array(ADDERS, np.float64)
    t, chunk = cuda.threadIdx.x, cuda.blockIdx.x
    start = chunk * CHUNK_ELEMENTS
    stop = min(start + CHUNK_ELEMENTS, n)
    peak, lo, hi = 0.0, np.inf, -np.inf
    nonfinite, nonfinite_output, clipped, zeroed = 0, 0, 0, 0
    for p in range(t, ADDERS, THREADS):
        lanes[p] = 0.0
    i = start + t
    near, far = x[min(i, stop - 1)], x[min(i + THREADS, stop - 1)]
    for tile in range(start, stop, TILE):
        stored, next_stored = near, far
        i = tile + TILE + t  # the next tile's elements are on their way while this one is worked on
        near, far = x[min(i, stop - 1)], x[min(i + THREADS, stop - 1)]
        for half in range(2):
            at = half * THREADS + t
            i = tile + at
            if i >= stop:
                _put_nothing(at, terms)
            else:
                s = slice_at(i, place)
                out = _requantized(stored, s, grids, flags, clamping, half_up, like)
                if keep:
                    y[i] = narrow(out, stored)
                v, w, limit = decode(stored), value_of_pattern(out, stored), largest(stored)
                if not abs(v) <= limit:
                    nonfinite += 1
                    _put_nothing(at, terms)
                elif not abs(w) <= limit:
                    nonfinite_output += 1
                    flags[DEGENERATE, s] = True
                    _put_nothing(at, terms)
                    lo, hi = min(lo, np.float64(v)), max(hi, np.float64(v))
                else:
                    a, size = _put_terms(stored, out, at, terms)
                    peak, lo, hi = max(peak, size), min(lo, a), max(hi, a)
                    if v < grids[MIN_RANGE, s] or v > grids[MAX_RANGE, s]:
                        clipped += 1
                    if w == 0 and v != 0:
                        zeroed += 1
            stored = next_stored
        cuda.syncthreads()
        for p in range(t, ADDERS, THREADS):
            total = lanes[p]
            first = p // LANES * TILE + p % LANES
            for k in range(0, TILE, LANES):
                total += terms[first + k]
            lanes[p] = total
        cuda.syncthreads()
    half = LANES // 2
    while half > 0:
        for p in range(t, NUM_SUMS * half, THREADS):
            k = p // half * LANES + p % half
            lanes[k] += lanes[k + half]
        cuda.syncthreads()
        half //= 2
    terms[t], terms[THREADS + t], terms[2 * THREADS + t] = peak, lo, hi
    terms[3 * THREADS + t], terms[4 * THREADS + t] = nonfinite, nonfinite_output
    terms[5 * THREADS + t], terms[6 * THREADS + t] = clipped, zeroed
    cuda.syncthreads()
    if t < NUM_SUMS:
        sums[chunk, t] = lanes[t * LANES]
    if t < _NUM_COUNTS:
        kept = terms[t * THREADS]
        for k in range(1, THREADS):
            other = terms[t * THREADS + k]
            if t == 0 or t == 2:
                kept = max(kept, other)
            elif t == 1:
                kept = min(kept, other)
            else:
                kept += other
        column = MAX_ABS_ERROR
        if t == 1:
            column = INPUT_MIN
        elif t == 2:
            column = INPUT_MAX
        elif t == 3:
            column = NONFINITE
        elif t == 4:
            column = NONFINITE_OUTPUT
        elif t == 5:
            column = CLIPPED
        elif t == 6:
            column = ZEROED
        sums[chunk, column] = kept


@device_kernel
def sum_slices(x, y, base, start, stop, inner, row, advance, first_slice, num_slices, grids, sums):
    """Add to `sums` (slices, SUM_COLUMNS) the elements [start, stop), one after another: a thread per slice."""
    s = cuda.grid(1)
    if s < num_slices:
        own = cuda.local.array(SUM_COLUMNS, np.float64)
        for k in range(SUM_COLUMNS):
            own[k] = sums[s, k]
        r, last_row, k = start // row, (stop - 1) // row, s + first_slice
        if advance > 0:
            r, k = k // advance, k % advance
            last_row = r
        while r <= last_row:
            run_start = r * row + k * inner
            run_stop = min(run_start + inner, (r + 1) * row, stop)
            for i in range(max(run_start, start) - base, run_stop - base):
                add_element(x[i], y[i], grids[MIN_RANGE, s], grids[MAX_RANGE, s], own, own)
            r += 1
        for k in range(SUM_COLUMNS):
            sums[s, k] = own[k]


@device_kernel
def count_patterns(patterns, tables):
    """Count 16-bit patterns into `tables` (tables, 65536) of uint64; blocks take them in turn.

    Where one value prevails (pruned weights) the counts of one table would wait for one another.
    """
    table = cuda.blockIdx.x % tables.shape[0]
    i, step = cuda.grid(1), cuda.gridsize(1)
    while i < patterns.size:
        cuda.atomic.add(tables, (table, patterns[i]), np.uint64(1))
        i += step


@device_kernel
def differentiate(gradients, x, out, first, n, place, ends, like, outside):
    """The op's gradient: `gradients` where x is inside `ends` (2, slices); `outside` (1,) counts the others."""
    i, step = cuda.grid(1), cuda.gridsize(1)
    count = 0
    while i < n:
        s, stored = slice_at(i, place), x[first + i]
        lo, hi = flush(ends[0, s], like), flush(ends[1, s], like)
        v = flush(decode(stored), like)
        out[first + i] = encode(straight_through(decode(gradients[first + i]), v, lo, hi, like), stored)
        if not (v >= lo and v <= hi):
            count += 1
        i += step
    if count > 0:
        cuda.atomic.add(outside, 0, count)
