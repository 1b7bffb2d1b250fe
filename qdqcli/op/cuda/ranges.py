"""CUDA kernels from elements to qparams: smallest and largest element of each slice, then the op's range step.

As in `cpu/ranges.py`, elements are bit patterns that become order keys, whose minimum and maximum are exact in any
order. Thread blocks combine their results in `order_keys` (2, slices) by atomic operations, which exist for 32 and 64
bits: keys of 16-bit elements are stored as int32.

`bits[0]` is element `base` of the tensor; column 0 of `order_keys` is slice `first_slice`. Threads of a block
communicate only through shared memory, which the simulator supports too.
"""

import numpy as np

from qdqcli.op.cuda.target import SIMULATED, cast, cuda, device_kernel
from qdqcli.op.jit.register import inlined
from qdqcli.op.params import CLIPPING, DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.primitives import select
from qdqcli.op.value import flush, is_degenerate, needs_flush, order_key, qparams_of_range, value_of_key

THREADS = 8 if SIMULATED else 256
"""Threads per block, a power of two. The simulator takes a millisecond for each."""
COLUMN_THREADS = min(THREADS, 64)
"""Adjacent threads on adjacent columns; the other threads of a block work on other rows."""


@inlined
def _wider(bits, lo, hi, infinity, nothing_lo, nothing_hi):
    """Widen the smallest and the largest key by one element; a NaN changes nothing."""
    key = order_key(bits)
    is_nan = (key > infinity) | (key < -infinity - 1)
    low, high = cast(select(is_nan, nothing_lo, key), lo), cast(select(is_nan, nothing_hi, key), hi)
    return select(low < lo, low, lo), select(high > hi, high, hi)


@device_kernel
def clear_order_keys(order_keys, nothing_lo, nothing_hi):
    """Initialize `order_keys` to the sentinels of slices without elements other than NaN."""
    s = cuda.grid(1)
    if s < order_keys.shape[1]:
        order_keys[0, s], order_keys[1, s] = nothing_lo, nothing_hi


@device_kernel
def measure_runs(
    bits, base, start, stop, first_run, num_runs, parts, inner, row, runs_of_row, advance, first_slice, infinity,
    nothing_lo, nothing_hi, width, order_keys,
):  # fmt: skip
    """Widen `order_keys` by the runs from `first_run` on; `width` threads, a power of two, share a part of a run.

    Runs are counted across rows, `runs_of_row` in each, and cut at `start` and `stop`.
    """
    low_order_keys = cuda.shared.array(THREADS, np.int64)
    high_order_keys = cuda.shared.array(THREADS, np.int64)  # the simulator tells shared arrays apart by their lines
    t = cuda.threadIdx.x
    mine = t % width
    task = cuda.blockIdx.x * (THREADS // width) + t // width
    lo, hi = nothing_lo, nothing_hi
    s = -1
    if task < num_runs * parts:
        run, part = first_run + task // parts, task % parts
        r, k = run // runs_of_row, run % runs_of_row
        s = r * advance + k - first_slice
        run_start = r * row + k * inner
        run_stop = min(run_start + inner, (r + 1) * row, stop)
        run_start = max(run_start, start)
        share = (run_stop - run_start + parts - 1) // parts
        i = run_start + part * share + mine - base
        end = min(run_start + (part + 1) * share, run_stop) - base
        while i + 3 * width < end:  # four loads in flight
            a, b, c, d = bits[i], bits[i + width], bits[i + 2 * width], bits[i + 3 * width]
            lo, hi = _wider(a, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(b, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(c, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(d, lo, hi, infinity, nothing_lo, nothing_hi)
            i += 4 * width
        while i < end:
            lo, hi = _wider(bits[i], lo, hi, infinity, nothing_lo, nothing_hi)
            i += width
    low_order_keys[t], high_order_keys[t] = lo, hi
    cuda.syncthreads()
    half = width // 2
    while half > 0:
        if mine < half:
            low_order_keys[t] = min(low_order_keys[t], low_order_keys[t + half])
            high_order_keys[t] = max(high_order_keys[t], high_order_keys[t + half])
        cuda.syncthreads()
        half //= 2
    if mine == 0 and s >= 0:
        cuda.atomic.min(order_keys, (0, s), cast(low_order_keys[t], lo))
        cuda.atomic.max(order_keys, (1, s), cast(high_order_keys[t], hi))


@device_kernel
def measure_columns(
    bits, base, start, stop, origin, width, rows_of_block, inner, row, first_slice, infinity, nothing_lo, nothing_hi,
    order_keys,
):  # fmt: skip
    """Widen `order_keys` where every row has the same slices, in runs too short to be shared by adjacent threads.

    The tensor is processed in lines of `width` elements, whole rows, the first at `origin`; each thread stays in its
    column. A block takes COLUMN_THREADS columns and `rows_of_block` lines.
    """
    low_order_keys = cuda.shared.array(THREADS, np.int64)
    high_order_keys = cuda.shared.array(THREADS, np.int64)  # the simulator tells shared arrays apart by their lines
    t = cuda.threadIdx.x
    across = t % COLUMN_THREADS
    column = cuda.blockIdx.x * COLUMN_THREADS + across
    first = cuda.blockIdx.y * rows_of_block
    lo, hi = nothing_lo, nothing_hi
    if column < width:
        step = THREADS // COLUMN_THREADS * width
        i = origin + (first + t // COLUMN_THREADS) * width + column
        end = min(origin + (first + rows_of_block) * width, stop)
        if i < start:  # only in the first line
            i += step
        while i + 3 * step < end:
            a, b = bits[i - base], bits[i + step - base]
            c, d = bits[i + 2 * step - base], bits[i + 3 * step - base]
            lo, hi = _wider(a, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(b, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(c, lo, hi, infinity, nothing_lo, nothing_hi)
            lo, hi = _wider(d, lo, hi, infinity, nothing_lo, nothing_hi)
            i += 4 * step
        while i < end:
            lo, hi = _wider(bits[i - base], lo, hi, infinity, nothing_lo, nothing_hi)
            i += step
    low_order_keys[t], high_order_keys[t] = lo, hi
    cuda.syncthreads()
    half = THREADS // COLUMN_THREADS // 2
    while half > 0:
        if t < half * COLUMN_THREADS:
            other = t + half * COLUMN_THREADS
            low_order_keys[t] = min(low_order_keys[t], low_order_keys[other])
            high_order_keys[t] = max(high_order_keys[t], high_order_keys[other])
        cuda.syncthreads()
        half //= 2
    if t < COLUMN_THREADS and column < width:
        s = column % row // inner - first_slice
        cuda.atomic.min(order_keys, (0, s), cast(low_order_keys[t], lo))
        cuda.atomic.max(order_keys, (1, s), cast(high_order_keys[t], hi))


@device_kernel
def decode_order_keys(order_keys, stored, ranges):
    """Decode keys into `ranges` (2, slices); NaN for a slice of NaN only.

    The type of `stored` is that of the elements.
    """
    s = cuda.grid(1)
    if s < ranges.shape[1]:
        some = order_keys[0, s] <= order_keys[1, s]
        for end in range(2):
            v = value_of_key(order_keys[end, s], stored)
            ranges[end, s] = select(some, v, cast(np.nan, v))


@device_kernel
def make_qparams(ranges, q_min, q_max, range_given, compute_type, qparams, flags):
    """Fill `qparams` (QPARAM_ROWS, slices) and `flags` (FLAG_ROWS, slices) from `ranges` (2, slices)."""
    s = cuda.grid(1)
    if s < ranges.shape[1]:
        least, greatest = ranges[0, s], ranges[1, s]
        lo, hi, scale, inverse = qparams_of_range(
            flush(least, compute_type), flush(greatest, compute_type), q_min, q_max, compute_type
        )
        qparams[MIN_RANGE, s], qparams[MAX_RANGE, s] = lo, hi
        qparams[SCALE, s], qparams[INVERSE_SCALE, s] = scale, inverse
        flags[FLUSHING, s] = needs_flush(lo, hi, scale, range_given, compute_type)
        flags[CLIPPING, s] = range_given | (least < lo) | (greatest > hi)
        flags[DEGENERATE, s] = is_degenerate(scale, compute_type)
