"""CUDA kernels from elements to qparams: smallest and largest element of each slice, then the op's range step.

As in `cpu/ranges.py`, elements are bit patterns that become order keys, whose minimum and maximum are exact in any
order. Thread blocks combine their results in `order_keys` (2, slices) by atomic operations, which exist for 32 and 64
bits: keys of 16-bit elements are stored as int32.

`bits[0]` is element `base` of the tensor; column 0 of `order_keys` is slice `first_slice`. Threads of a block
communicate only through shared memory, which the simulator supports too.
"""

from typing import NamedTuple

import numpy as np

from qdqcli.op.cuda.target import SIMULATED, cast, cuda, device_kernel
from qdqcli.op.jit.register import inlined
from qdqcli.op.params import CLIPPING, DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.primitives import select
from qdqcli.op.value import flush, is_degenerate, needs_flush, order_key, qparams_of_range, value_of_key


class Runs(NamedTuple):
    """Runs of a launch, counted across rows."""

    first: int
    num_runs: int
    of_row: int
    """Runs per row."""
    parts: int
    """Parts of a run, which are measured separately."""
    width: int
    """Threads that share a part, a power of two."""


class Lines(NamedTuple):
    """Lines of whole rows that a tensor is cut into."""

    origin: int
    """First element of the first line."""
    width: int
    """Elements of a line."""
    of_block: int
    """Lines per thread block."""


THREADS = 8 if SIMULATED else 256
"""Threads per block, a power of two. The simulator takes a millisecond for each."""
COLUMN_THREADS = min(THREADS, 64)
"""Adjacent threads on adjacent columns; the other threads of a block work on other rows."""


@inlined
def _wider(bits, lo, hi, limits):
    """Widen the smallest and the largest key by one element; a NaN changes nothing."""
    key = order_key(bits)
    is_nan = (key > limits.infinity) | (key < -limits.infinity - 1)
    low = cast(select(is_nan, limits.nothing_lo, key), lo)
    high = cast(select(is_nan, limits.nothing_hi, key), hi)
    return select(low < lo, low, lo), select(high > hi, high, hi)


@inlined
def _extremes(bits, i, end, step, limits):
    """Return the smallest and the largest key of bits[i:end:step], ignoring NaN; four loads are in flight."""
    lo, hi = limits.nothing_lo, limits.nothing_hi
    while i + 3 * step < end:
        a, b, c, d = bits[i], bits[i + step], bits[i + 2 * step], bits[i + 3 * step]
        lo, hi = _wider(a, lo, hi, limits)
        lo, hi = _wider(b, lo, hi, limits)
        lo, hi = _wider(c, lo, hi, limits)
        lo, hi = _wider(d, lo, hi, limits)
        i += 4 * step
    while i < end:
        lo, hi = _wider(bits[i], lo, hi, limits)
        i += step
    return lo, hi


@inlined
def _reduce(lows, highs, t, number, step):
    """Reduce the extremes of `number` threads, a power of two, to those of the first; `t` is `step` from the next."""
    mine, half = t // step % number, number // 2
    while half > 0:
        if mine < half:
            lows[t] = min(lows[t], lows[t + half * step])
            highs[t] = max(highs[t], highs[t + half * step])
        cuda.syncthreads()
        half //= 2


@device_kernel
def clear_order_keys(order_keys, limits):
    """Initialize `order_keys` to the sentinels of slices without elements other than NaN."""
    s = cuda.grid(1)
    if s < order_keys.shape[1]:
        order_keys[0, s], order_keys[1, s] = limits.nothing_lo, limits.nothing_hi


@device_kernel
def measure_runs(bits, elements, runs, steps, limits, order_keys):
    """Widen `order_keys` by runs, which are cut at the ends of `elements`."""
    base, start, stop = elements
    inner, row, parts, width = steps.inner, steps.row, runs.parts, runs.width
    lows = cuda.shared.array(THREADS, np.int64)
    highs = cuda.shared.array(THREADS, np.int64)  # the simulator tells shared arrays apart by their lines
    t = cuda.threadIdx.x
    task = cuda.blockIdx.x * (THREADS // width) + t // width
    lo, hi = limits.nothing_lo, limits.nothing_hi
    s = -1
    if task < runs.num_runs * parts:
        run, part = runs.first + task // parts, task % parts
        r, k = run // runs.of_row, run % runs.of_row
        s = r * steps.advance + k - steps.first_slice
        run_start = r * row + k * inner
        run_stop = min(run_start + inner, (r + 1) * row, stop)
        run_start = max(run_start, start)
        share = (run_stop - run_start + parts - 1) // parts
        first = run_start + part * share
        lo, hi = _extremes(bits, first + t % width - base, min(first + share, run_stop) - base, width, limits)
    lows[t], highs[t] = lo, hi
    cuda.syncthreads()
    _reduce(lows, highs, t, width, 1)
    if t % width == 0 and s >= 0:
        cuda.atomic.min(order_keys, (0, s), cast(lows[t], lo))
        cuda.atomic.max(order_keys, (1, s), cast(highs[t], hi))


@device_kernel
def measure_columns(bits, elements, lines, steps, limits, order_keys):
    """Widen `order_keys` where every row has the same slices, in runs too short to be shared by adjacent threads.

    Each thread stays in its column of the lines. A block takes COLUMN_THREADS columns and `lines.of_block` lines.
    """
    base, start, stop = elements
    width, origin = lines.width, lines.origin
    lows = cuda.shared.array(THREADS, np.int64)
    highs = cuda.shared.array(THREADS, np.int64)  # the simulator tells shared arrays apart by their lines
    t = cuda.threadIdx.x
    column = cuda.blockIdx.x * COLUMN_THREADS + t % COLUMN_THREADS
    first = cuda.blockIdx.y * lines.of_block
    lo, hi = limits.nothing_lo, limits.nothing_hi
    if column < width:
        step = THREADS // COLUMN_THREADS * width
        i = origin + (first + t // COLUMN_THREADS) * width + column
        if i < start:  # only in the first line
            i += step
        lo, hi = _extremes(bits, i - base, min(origin + (first + lines.of_block) * width, stop) - base, step, limits)
    lows[t], highs[t] = lo, hi
    cuda.syncthreads()
    _reduce(lows, highs, t, THREADS // COLUMN_THREADS, COLUMN_THREADS)
    if t < COLUMN_THREADS and column < width:
        s = column % steps.row // steps.inner - steps.first_slice
        cuda.atomic.min(order_keys, (0, s), cast(lows[t], lo))
        cuda.atomic.max(order_keys, (1, s), cast(highs[t], hi))


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
def make_qparams(ranges, codes, op, qparams):
    """Fill `qparams` from `ranges` (2, slices)."""
    s, compute_type, values, flags = cuda.grid(1), op.compute_type, qparams.values, qparams.flags
    if s < ranges.shape[1]:
        least, greatest = ranges[0, s], ranges[1, s]
        lo, hi, scale, inverse = qparams_of_range(
            flush(least, compute_type), flush(greatest, compute_type), codes.q_min, codes.q_max, compute_type
        )
        values[MIN_RANGE, s], values[MAX_RANGE, s] = lo, hi
        values[SCALE, s], values[INVERSE_SCALE, s] = scale, inverse
        flags[FLUSHING, s] = needs_flush(lo, hi, scale, op.clamping, compute_type)
        flags[CLIPPING, s] = op.clamping | (least < lo) | (greatest > hi)
        flags[DEGENERATE, s] = is_degenerate(scale, compute_type)
