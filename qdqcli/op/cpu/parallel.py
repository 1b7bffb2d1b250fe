"""CPU loops over whole arrays in memory, one part of the array per thread.

Only one thread may enter at a time: otherwise Numba's fallback threading layer aborts the process. `bounds`
(parts + 1) are the first elements of the parts, then the end. Files use our own threads, see `measure/workers.py`.
"""

from numba import prange

from qdqcli.op.cpu import quantize as cpu_quantize
from qdqcli.op.cpu import ranges as cpu_range
from qdqcli.op.cpu.ranges import start_of
from qdqcli.op.jit.cache import kernel
from qdqcli.op.jit.vector import smaller


@kernel(parallel=True)
def measure_range(x, bounds, inner, row, advance, infinity, nothing, order_keys):
    """Widen `order_keys` (parts, 2, slices), each part its own."""
    for p in prange(bounds.size - 1):
        cpu_range.measure_range(
            x[bounds[p] :],
            bounds[p],
            bounds[p],
            bounds[p + 1],
            inner,
            row,
            advance,
            0,
            infinity,
            nothing,
            order_keys[p],
        )


@kernel(parallel=True)
def measure_columns(x, bounds, row, infinity, nothing, order_keys):
    """Widen `order_keys` (parts, 2, row) for slices of one column each."""
    for p in prange(bounds.size - 1):
        cpu_range.measure_columns(x, 0, bounds[p], bounds[p + 1], row, infinity, nothing, order_keys[p])


@kernel(parallel=True)
def quantize(x, y, bounds, inner, row, advance, qparams, flags, clamping, half_up, compute_type, nontemporal):
    """Quantize with the qparams of all slices."""
    for p in prange(bounds.size - 1):
        cpu_quantize.quantize(
            x,
            y,
            0,
            bounds[p],
            bounds[p + 1],
            inner,
            row,
            advance,
            0,
            qparams,
            flags,
            clamping,
            half_up,
            compute_type,
            nontemporal,
        )


@kernel(parallel=True)
def quantize_columns(x, y, bounds, row, qparams, flushing, clamping, half_up, compute_type, nontemporal):
    """Quantize with the qparams of all columns."""
    for p in prange(bounds.size - 1):
        cpu_quantize.quantize_columns(
            x, y, 0, bounds[p], bounds[p + 1], row, qparams, flushing, clamping, half_up, compute_type, nontemporal
        )


@kernel(parallel=True)
def quantize_slices(
    x,
    bits,
    y,
    slice_bounds,
    inner,
    row,
    advance,
    infinity,
    nothing,
    q_min,
    q_max,
    half_up,
    compute_type,
    short_runs,
    nontemporal,
    order_keys,
    ranges,
    qparams,
    flags,
):
    """Measure and quantize slices of one run each, a batch at a time: the data crosses the memory bus once.

    `bits` are the elements of `x` as integers; `slice_bounds` (parts + 1) are slices. The last four arguments are
    scratch buffers for one batch of each part, (parts, rows, slices of a batch).
    """
    batch = order_keys.shape[2]
    for p in prange(slice_bounds.size - 1):
        for first in range(slice_bounds[p], slice_bounds[p + 1], batch):
            last = smaller(first + batch, slice_bounds[p + 1])
            start, stop = start_of(first, inner, row, advance, x.size), start_of(last, inner, row, advance, x.size)
            order_keys[p, 0], order_keys[p, 1] = nothing[0], nothing[1]
            indices = (bits[start:], start, start, stop, inner, row, advance, first, infinity, nothing, order_keys[p])
            if short_runs is None:
                cpu_range.measure_range(*indices)
            else:
                cpu_range.measure_short_runs(*indices)
            cpu_range.decode_order_keys(order_keys[p], x, 0, batch, ranges[p])
            cpu_range.make_qparams(
                ranges[p], 0, batch, last - first, q_min, q_max, False, compute_type, qparams[p], flags[p]
            )
            cpu_quantize.quantize(
                x,
                y,
                0,
                start,
                stop,
                inner,
                row,
                advance,
                first,
                qparams[p],
                flags[p],
                None,
                half_up,
                compute_type,
                nontemporal,
            )
