"""CUDA kernels for fake quantization, with or without error sums, and for the gradient.

The order of addition is that of `cpu/errors.py`, so the sums have the same bits. Each thread block takes a chunk. Each
thread takes a lane of a run, keeps its sums in registers and writes them to shared memory; then one thread per sum and
lane adds those of one run after another.

`slice_map` maps an element to its slice, see `cuda/indexing.py`.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.arguments import RUN
from qdqcli.op.cuda.indexing import slice_at
from qdqcli.op.cuda.ranges import THREADS
from qdqcli.op.cuda.target import cast, cuda, device_kernel
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.params import DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.primitives import add, narrow
from qdqcli.op.value import (
    clamp,
    decode,
    encode,
    flush,
    max_finite,
    pattern,
    quantize_half_to_even,
    quantize_half_up,
    straight_through,
    value_of_pattern,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

TILE = max(THREADS // VECTOR_SIZE, 1) * RUN
"""Elements of the runs that a block adds at once."""
STRANDS = TILE // RUN * VECTOR_SIZE
"""Lanes of the runs of a tile, one thread each on a device."""
ADDERS = columns.NUM_SUMS * VECTOR_SIZE
_NUM_COUNTS = columns.SUM_COLUMNS - columns.NUM_SUMS
"""Values per thread beside the sums, in the order of the columns: three extremes and four counts."""
_SHARED = max(columns.NUM_SUMS * STRANDS, _NUM_COUNTS * THREADS)


@inlined
def _fake_quantized(stored, s, qparams, op):
    """Quantize and dequantize a stored element of slice `s` to a pattern; all threads take the same branches."""
    compute_type, values = op.compute_type, qparams.values
    lo, hi, scale, inverse = values[MIN_RANGE, s], values[MAX_RANGE, s], values[SCALE, s], values[INVERSE_SCALE, s]
    v = decode(stored)
    if qparams.flags[FLUSHING, s]:
        v = flush(v, compute_type)
    if op.clamping:
        v = clamp(v, lo, hi)
    if op.half_up:
        return pattern(quantize_half_up(v, scale, inverse, compute_type), stored)
    return pattern(quantize_half_to_even(v, scale, inverse, compute_type), stored)


@device_kernel
def quantize(x, y, first, n, slice_map, qparams, op):
    """Quantize and dequantize the elements [first, first + n) of `x` into `y`; `slice_map` counts from `first`."""
    i, step = cuda.grid(1), cuda.gridsize(1)
    while i + 3 * step < n:  # four loads in flight
        a, b, c, d = x[first + i], x[first + i + step], x[first + i + 2 * step], x[first + i + 3 * step]
        j, k, l = i + step, i + 2 * step, i + 3 * step  # noqa: E741
        y[first + i] = narrow(_fake_quantized(a, slice_at(i, slice_map), qparams, op), a)
        y[first + j] = narrow(_fake_quantized(b, slice_at(j, slice_map), qparams, op), b)
        y[first + k] = narrow(_fake_quantized(c, slice_at(k, slice_map), qparams, op), c)
        y[first + l] = narrow(_fake_quantized(d, slice_at(l, slice_map), qparams, op), d)
        i += 4 * step
    while i < n:
        a = x[first + i]
        y[first + i] = narrow(_fake_quantized(a, slice_at(i, slice_map), qparams, op), a)
        i += step


@device_kernel
def quantize_and_sum(x, y, keep, slice_map, qparams, op, zero, sums):
    """Quantize the elements of `x`, into `y` if `keep`, and fill `sums` (chunks, SUM_COLUMNS), one block per chunk.

    The type of `zero` is that of the terms. Slices whose output became infinite or NaN are marked in `flags`.
    """
    shared = cuda.shared.array(_SHARED, np.float64)
    lanes = cuda.shared.array(ADDERS, np.float64)
    t, chunk = cuda.threadIdx.x, cuda.blockIdx.x
    start = chunk * CHUNK_ELEMENTS
    stop = min(start + CHUNK_ELEMENTS, x.size)
    peak, lo, hi = 0.0, np.inf, -np.inf
    nonfinite, nonfinite_output, clipped, zeroed = 0, 0, 0, 0
    for p in range(t, ADDERS, THREADS):
        lanes[p] = 0.0
    for tile in range(start, stop, TILE):
        for p in range(t, STRANDS, THREADS):
            error, abs_error, sq_error, sq_input, sq_output = zero, zero, zero, zero, zero
            first = tile + p // VECTOR_SIZE * RUN + p % VECTOR_SIZE
            for i in range(first, min(first + RUN, stop), VECTOR_SIZE):
                stored, s = x[i], slice_at(i, slice_map)
                out = _fake_quantized(stored, s, qparams, op)
                if keep:
                    y[i] = narrow(out, stored)
                v, w, limit = decode(stored), value_of_pattern(out, stored), max_finite(stored)
                if not abs(v) <= limit:
                    nonfinite += 1
                    continue
                lo, hi = min(lo, np.float64(v)), max(hi, np.float64(v))
                if not abs(w) <= limit:
                    nonfinite_output += 1
                    qparams.flags[DEGENERATE, s] = True
                    continue
                a, b = cast(v, zero), cast(w, zero)
                e = add(b, -a)
                error, abs_error = error + e, abs_error + abs(e)
                sq_error, sq_input, sq_output = add(sq_error, e * e), add(sq_input, a * a), add(sq_output, b * b)
                peak = max(peak, np.float64(abs(e)))
                if v < qparams.values[MIN_RANGE, s] or v > qparams.values[MAX_RANGE, s]:
                    clipped += 1
                if w == 0 and v != 0:
                    zeroed += 1
            shared[columns.ERROR * STRANDS + p], shared[columns.ABS_ERROR * STRANDS + p] = error, abs_error
            shared[columns.SQ_ERROR * STRANDS + p], shared[columns.SQ_INPUT * STRANDS + p] = sq_error, sq_input
            shared[columns.SQ_OUTPUT * STRANDS + p] = sq_output
        cuda.syncthreads()
        for p in range(t, ADDERS, THREADS):
            total = lanes[p]
            for k in range(p // VECTOR_SIZE * STRANDS + p % VECTOR_SIZE, (p // VECTOR_SIZE + 1) * STRANDS, VECTOR_SIZE):
                total += shared[k]
            lanes[p] = total
        cuda.syncthreads()
    half = VECTOR_SIZE // 2
    while half > 0:
        for p in range(t, columns.NUM_SUMS * half, THREADS):
            k = p // half * VECTOR_SIZE + p % half
            lanes[k] += lanes[k + half]
        cuda.syncthreads()
        half //= 2
    shared[t], shared[THREADS + t], shared[2 * THREADS + t] = peak, lo, hi
    shared[3 * THREADS + t], shared[4 * THREADS + t] = nonfinite, nonfinite_output
    shared[5 * THREADS + t], shared[6 * THREADS + t] = clipped, zeroed
    cuda.syncthreads()
    if t < columns.NUM_SUMS:
        sums[chunk, t] = lanes[t * VECTOR_SIZE]
    if t < _NUM_COUNTS:
        kept = shared[t * THREADS]
        for k in range(1, THREADS):
            other = shared[t * THREADS + k]
            if t == 0 or t == 2:
                kept = max(kept, other)
            elif t == 1:
                kept = min(kept, other)
            else:
                kept += other
        sums[chunk, columns.NUM_SUMS + t] = kept


@device_kernel
def differentiate(gradients, x, out, slice_map, ranges, compute_type, outside):
    """Gradient of the op: `gradients` where x is inside `ranges` (2, slices); `outside` (1,) counts the others."""
    i, step = cuda.grid(1), cuda.gridsize(1)
    count = 0
    while i < x.size:
        s, stored = slice_at(i, slice_map), x[i]
        lo, hi = flush(ranges[0, s], compute_type), flush(ranges[1, s], compute_type)
        v = flush(decode(stored), compute_type)
        out[i] = encode(straight_through(decode(gradients[i]), v, lo, hi, compute_type), stored)
        if not (v >= lo and v <= hi):
            count += 1
        i += step
    if count > 0:
        cuda.atomic.add(outside, 0, count)
