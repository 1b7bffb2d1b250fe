"""CPU loops over a tensor in a file: a stride is read, processed and written while it is in the cache.

`source` and `sink` are (descriptor, byte offset of the tensor); `x` and `y` are scratch buffers for a stride of whole
chunks; `io_status` (2,) takes errors, see `cpu/file_access.py`. Other arguments as in `cpu/ranges.py` and
`cpu/quantize.py`. Each kernel returns the element up to which all succeeded; results behind it are undefined.
"""

import numpy as np

from qdqcli.op.columns import ABS_ERROR, INPUT_MAX, INPUT_MIN
from qdqcli.op.cpu import quantize as cpu_quantize
from qdqcli.op.cpu import ranges as cpu_range
from qdqcli.op.cpu.file_access import read_at, write_at
from qdqcli.op.cpu.histograms import count_in_tables
from qdqcli.op.jit.cache import kernel
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import smaller
from qdqcli.stats.sums import CHUNK_ELEMENTS


@inlined
def _read(source, x, i, stop, io_status):
    """Read the stride that begins at element `i`; return the number of elements read, all or 0."""
    count = smaller(x.size, stop - i)
    return count if read_at(source[0], source[1] + i * x.itemsize, x, count, io_status) else 0


@inlined
def _write(sink, y, i, count, io_status):
    """Write `count` elements from element `i` on; return whether all were written."""
    return write_at(sink[0], sink[1] + i * y.itemsize, y, count, io_status)


@kernel()
def measure_range(source, x, start, stop, inner, row, advance, first_slice, infinity, nothing, order_keys, io_status):
    """Widen `order_keys` (2, slices) by the elements [start, stop); `x` is a buffer of integers."""
    i = start
    while i < stop:
        count = _read(source, x, i, stop, io_status)
        if not count:
            break
        cpu_range.measure_range(x, i, i, i + count, inner, row, advance, first_slice, infinity, nothing, order_keys)
        i += count
    return i


@kernel()
def measure_columns(source, x, start, stop, row, infinity, nothing, order_keys, io_status):
    """Widen `order_keys` (2, row) for slices of one column each; element 0 is in column 0."""
    i = start
    while i < stop:
        count = _read(source, x, i, stop, io_status)
        if not count:
            break
        cpu_range.measure_columns(x, i, i, i + count, row, infinity, nothing, order_keys)
        i += count
    return i


@kernel()
def count_patterns(source, x, start, stop, tables, io_status):
    """Count the 16-bit patterns of [start, stop), see `cpu/histograms.py`; `x` is uint64, four patterns each."""
    i = start
    while i < stop:
        count = smaller(4 * x.size, stop - i)
        whole = count // 4
        if not whole or not read_at(source[0], source[1] + 2 * i, x, whole, io_status):
            break
        count_in_tables(x[:whole], tables)
        i += 4 * whole
    return i


@kernel()
def quantize(
    source,
    sink,
    x,
    y,
    start,
    stop,
    inner,
    row,
    advance,
    first_slice,
    qparams,
    flags,
    clamping,
    half_up,
    compute_type,
    io_status,
):
    """Quantize and dequantize from file to file."""
    i = start
    while i < stop:
        count = _read(source, x, i, stop, io_status)
        if not count:
            break
        cpu_quantize.quantize(
            x,
            y,
            i,
            i,
            i + count,
            inner,
            row,
            advance,
            first_slice,
            qparams,
            flags,
            clamping,
            half_up,
            compute_type,
            None,
        )
        if not _write(sink, y, i, count, io_status):
            break
        i += count
    return i


@kernel()
def quantize_and_sum(
    source, sink, x, y, start, stop, inner, row, advance, first_slice, qparams, flags, columns, clipping, clamping,
    half_up, compute_type, piece, terms, sums, io_status,
):  # fmt: skip
    """Quantize, dequantize and sum from file to file; with `sink` None nothing is written."""
    i = start
    while i < stop:
        count = _read(source, x, i, stop, io_status)
        if not count:
            break
        chunk = (i - start) // CHUNK_ELEMENTS
        here = sums[chunk : chunk + (count + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS]
        cpu_quantize.quantize_and_sum(
            x, y, i, i, i + count, inner, row, advance, first_slice, qparams, flags, columns, clipping, clamping,
            half_up, compute_type, sink, None, piece, terms, here,
        )  # fmt: skip
        if sink is not None:  # noqa: SIM102  # a separate condition lets Numba prune the branch
            if not _write(sink, y, i, count, io_status):
                break
        i += count
    return i


@kernel()
def fake_quantize_and_sum_each(
    source, sink, offset, x, bits, y, places, infinity, nothing, q_min, q_max, half_up, compute_type, order_keys,
    ranges, qparams, flags, piece, terms, sums, num_degenerate, is_done, io_status,
):  # fmt: skip
    """Measure, quantize and sum small tensors in one read, for `cpu/file_ranges.py`; `source`, `sink`: descriptors."""
    last = places.shape[0] - 1
    if not read_at(source, offset, x, places[last, 0] + places[last, 1], io_status):
        return
    for t in range(places.shape[0]):
        begin, size = places[t, 0], places[t, 1]
        end = begin + size
        inner, row, advance = places[t, 2], places[t, 3], places[t, 4]
        went_well = cpu_quantize.fake_quantize_and_sum(
            None, None, x[begin:end], bits[begin:end], y[begin:end], 0, 0, size, inner, row, advance, 0, infinity,
            nothing, q_min, q_max, half_up, compute_type, None, sink, None, order_keys, ranges, qparams, flags, piece,
            terms, sums[t : t + 1], None,
        )  # fmt: skip
        if went_well and sink is not None:
            went_well = write_at(sink, offset + begin * y.itemsize, y[begin:end], size, io_status)
        if not went_well or not np.isfinite(sums[t, ABS_ERROR]):
            continue
        is_done[t] = True
        lo, hi = ranges[0, 0], ranges[1, 0]
        for s in range(cpu_range.run_at(size - 1, inner, row, advance)[0] + 1):
            lo, hi = min(lo, ranges[0, s]), max(hi, ranges[1, s])
            num_degenerate[t] += flags[cpu_range.DEGENERATE, s]
        sums[t, INPUT_MIN], sums[t, INPUT_MAX] = lo, hi
