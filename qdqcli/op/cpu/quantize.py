"""CPU loops for fake quantization, with or without error sums, and for the gradient.

Arguments as in `cpu/ranges.py`; `x` and `y` hold stored elements (see `value.py`).
"""

import numpy as np

from qdqcli.op.columns import ABS_ERROR, CLIPPED, INPUT_MAX, INPUT_MIN
from qdqcli.op.cpu.errors import PIECE, add_runs, begin_chunk, finish_chunk
from qdqcli.op.cpu.ranges import (
    decode_order_keys,
    make_qparams,
    measure_range,
    measure_short_runs,
    run_after,
    run_at,
    start_of,
)
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    VECTOR_SIZE,
    count,
    load,
    load_part,
    mask_of_first,
    smaller,
    store,
    store_nontemporal,
    store_part,
)
from qdqcli.op.params import CLIPPING, DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.value import clamp, decode, encode, fake_quantize, flush, straight_through
from qdqcli.stats.sums import CHUNK_ELEMENTS

# ------------------------------------------------------------------ value to value


@inlined
def _fake_quantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, compute_type):
    """Quantize and dequantize a vector of stored elements; the result is not yet rounded to their dtype."""
    v = decode(stored)
    if flushing:  # constant within a run: the branch costs nothing
        v = flush(v, compute_type)
    if clamping is not None:
        v = clamp(v, lo, hi)
    return fake_quantize(v, scale, inverse, half_up, compute_type)


@inlined
def quantize(
    x,
    y,
    base,
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
    nontemporal,
):
    """Quantize and dequantize the elements of `x` into `y`.

    With `nontemporal` (non-temporal stores), y[0] is aligned to VECTOR_SIZE elements and every run is whole vectors.
    """
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        lo, hi, scale, inverse = (
            qparams[MIN_RANGE, s],
            qparams[MAX_RANGE, s],
            qparams[SCALE, s],
            qparams[INVERSE_SCALE, s],
        )
        flushing = flags[FLUSHING, s]
        while i + VECTOR_SIZE <= end:
            stored = load(x, i - base)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, compute_type)
            if nontemporal is None:
                store(y, i - base, encode(v, stored))
            else:
                store_nontemporal(y, i - base, encode(v, stored))
            i += VECTOR_SIZE
        if i < end:
            stored = load_part(x, i - base, end - i)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, compute_type)
            store_part(y, i - base, encode(v, stored), end - i)
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)


@inlined
def quantize_columns(x, y, base, start, stop, row, qparams, flushing, clamping, half_up, compute_type, nontemporal):
    """`quantize` for short runs. `qparams` (QPARAM_ROWS, row + VECTOR_SIZE) has a column per element of a row, then
    wraps around.

    With `nontemporal`, rows are whole vectors and y[0] is aligned to VECTOR_SIZE elements.
    """
    i = start
    while i < stop:
        column = i % row
        if row < _WIDE_ROW:
            end = stop
        elif column or i + _BAND * row > stop:
            end = smaller(i - column + row, stop)
        else:
            _quantize_band(x, y, i - base, row, qparams, flushing, clamping, half_up, compute_type, nontemporal)
            i += _BAND * row
            continue
        _quantize_row(x, y, i - base, end - base, column, row, qparams, flushing, clamping, half_up, compute_type)
        i = end


_WIDE_ROW = 16 * VECTOR_SIZE
_BAND = 4
"""Wide rows processed together, so that the qparams of a column are loaded once for all."""


@inlined
def _quantize_band(x, y, begin, row, qparams, flushing, clamping, half_up, compute_type, nontemporal):
    """Quantize _BAND whole rows, the first at x[begin]."""
    capacity = qparams.shape[1]
    for c in range(0, row, VECTOR_SIZE):
        lo, hi = load(qparams, MIN_RANGE * capacity + c), load(qparams, MAX_RANGE * capacity + c)
        scale, inverse = load(qparams, SCALE * capacity + c), load(qparams, INVERSE_SCALE * capacity + c)
        for r in range(_BAND):
            at = begin + r * row + c
            stored = load_part(x, at, row - c)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, compute_type)
            if nontemporal is None:
                store_part(y, at, encode(v, stored), row - c)
            else:
                store_nontemporal(y, at, encode(v, stored))


@inlined
def _quantize_row(x, y, begin, end, c, row, qparams, flushing, clamping, half_up, compute_type):
    """Quantize the elements [begin, end) of `x`, the first in column `c`."""
    capacity = qparams.shape[1]
    for i in range(begin, end, VECTOR_SIZE):
        lo, hi = load(qparams, MIN_RANGE * capacity + c), load(qparams, MAX_RANGE * capacity + c)
        scale, inverse = load(qparams, SCALE * capacity + c), load(qparams, INVERSE_SCALE * capacity + c)
        stored = load_part(x, i, end - i)
        v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, compute_type)
        store_part(y, i, encode(v, stored), end - i)
        c = _next_column(c, row)


@inlined
def _next_column(c, row):
    """Column VECTOR_SIZE elements further, wrapped at the row's end; a modulo would cost as much as all the rest."""
    c += VECTOR_SIZE
    while c >= row:
        c -= row
    return c


# ------------------------------------------------------------------ with error sums


@inlined
def quantize_and_sum(
    x, y, base, start, stop, inner, row, advance, first_slice, qparams, flags, columns, clipping, clamping, half_up,
    compute_type, keep, nontemporal, piece, terms, sums,
):  # fmt: skip
    """`quantize`, and fill `sums` (chunks, SUM_COLUMNS), whose row 0 is the chunk that begins at `start`.

    With `columns`, `quantize_columns`: elements are then counted from a column 0, and `flags` are those of all slices.
    Without `clipping`, no element can be out of range. Outputs are written to `y` only with `keep`; with `nontemporal`
    by non-temporal stores: `y` then has the alignment of `base`, modulo VECTOR_SIZE elements. A row with a non-finite
    ABS_ERROR must be summed again, see `look_closer` in `cpu/errors.py`. The input extremes are left unset.
    """
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        clipped = 0
        begin_chunk(terms)
        for i in range(first, last, PIECE):
            end, source = smaller(i + PIECE, last), x[i - base :]
            target = piece
            if keep is not None:  # noqa: SIM102  # a separate condition lets Numba prune the branch
                if nontemporal is None:
                    target = y[i - base :]
            if columns is None:
                quantize(
                    source, target, i, i, end, inner, row, advance, first_slice, qparams, flags, clamping, half_up,
                    compute_type, None,
                )  # fmt: skip
                if clipping:
                    clipped += count_outside(source, i, i, end, inner, row, advance, first_slice, qparams, flags)
            else:
                quantize_columns(
                    source, target, i, i, end, row, qparams, flags[FLUSHING, 0], clamping, half_up, compute_type, None
                )
                if clipping:
                    clipped += count_outside_columns(source, i, end, row, qparams)
            add_runs(source, 0, target, 0, end - i, terms, nontemporal, y, i - base)
            if nontemporal is not None:
                _store_rest(piece, y, i - base, end - i)
        finish_chunk(x, first - base, last - first, terms, sums[chunk])
        sums[chunk, CLIPPED] = clipped


@inlined
def _store_rest(piece, y, begin, count):
    """y[begin : begin + count] = piece[:count] for the last, incomplete vector."""
    k = count // VECTOR_SIZE * VECTOR_SIZE
    if k < count:
        store_part(y, begin + k, load_part(piece, k, count - k), count - k)


@inlined
def count_outside(x, base, start, stop, inner, row, advance, first_slice, qparams, flags):
    """Number of elements outside the range of their slice."""
    outside = 0
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        if flags[CLIPPING, s]:
            lo, hi = qparams[MIN_RANGE, s], qparams[MAX_RANGE, s]
            for k in range(i, end, VECTOR_SIZE):
                v = decode(load_part(x, k - base, end - k))
                outside += count(((v < lo) | (v > hi)) & mask_of_first(end - k))
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)
    return outside


@inlined
def count_outside_columns(x, start, stop, row, qparams):
    """Number of elements out of range, for `qparams` as in `quantize_columns`; x[0] is element `start`."""
    capacity, outside, c = qparams.shape[1], 0, start % row
    for k in range(0, stop - start, VECTOR_SIZE):
        v = decode(load_part(x, k, stop - start - k))
        lo, hi = load(qparams, MIN_RANGE * capacity + c), load(qparams, MAX_RANGE * capacity + c)
        outside += count(((v < lo) | (v > hi)) & mask_of_first(stop - start - k))
        c = _next_column(c, row)
    return outside


@inlined
def fake_quantize_and_sum(
    x, bits, y, base, start, stop, inner, row, advance, first_slice, infinity, nothing, q_min, q_max, half_up,
    compute_type, short_runs, keep, nontemporal, order_keys, ranges, qparams, flags, piece, terms, sums,
):  # fmt: skip
    """Measure, quantize and sum in one call, where `x` holds whole slices of one run each.

    `short_runs`: slices are as `measure_short_runs` takes them. `bits` are the elements of `x` as integers;
    `order_keys`, `ranges`, `qparams` and `flags` are scratch buffers for the slices.
    """
    for s in range(order_keys.shape[1]):
        order_keys[0, s], order_keys[1, s] = nothing[0], nothing[1]
    size = base + x.size
    num_slices = run_at(size - 1, inner, row, advance)[0] + 1 - first_slice
    shared = clipping = 0
    known = 0  # slices with qparams: those of a chunk get it just before, while the cache still holds their elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        needed = (run_at(last - 1, inner, row, advance)[0] - first_slice) // VECTOR_SIZE * VECTOR_SIZE + VECTOR_SIZE
        if needed > known:
            begin = start_of(first_slice + known, inner, row, advance, size)
            end = start_of(first_slice + needed, inner, row, advance, size)
            if short_runs is None:
                measure_range(bits, base, begin, end, inner, row, advance, first_slice, infinity, nothing, order_keys)
            else:
                measure_short_runs(
                    bits, base, begin, end, inner, row, advance, first_slice, infinity, nothing, order_keys
                )
            decode_order_keys(order_keys, x, known, needed, ranges)
            shared = clipping  # the slices shared with the previous chunk
            clipping = make_qparams(
                ranges, known, needed, num_slices, q_min, q_max, False, compute_type, qparams, flags
            )
            known = needed
        here = sums[chunk : chunk + 1]
        quantize_and_sum(
            x, y, base, first, last, inner, row, advance, first_slice, qparams, flags, None, shared + clipping > 0,
            None, half_up, compute_type, keep, nontemporal, piece, terms, here,
        )  # fmt: skip


@inlined
def fake_quantize_and_sum_each(
    x, bits, y, layouts, infinity, nothing, q_min, q_max, half_up, compute_type, keep, order_keys, ranges, qparams,
    flags, piece, terms, sums, num_degenerate, is_done,
):  # fmt: skip
    """`fake_quantize_and_sum` for many tensors of at most a chunk each, which are parts of `x`.

    `layouts` (tensors, 5): first element, number of elements, and the layout's steps.
    """
    for t in range(layouts.shape[0]):
        begin, size = layouts[t, 0], layouts[t, 1]
        end = begin + size
        inner, row, advance = layouts[t, 2], layouts[t, 3], layouts[t, 4]
        fake_quantize_and_sum(
            x[begin:end], bits[begin:end], y[begin:end], 0, 0, size, inner, row, advance, 0, infinity, nothing, q_min,
            q_max, half_up, compute_type, None, keep, None, order_keys, ranges, qparams, flags, piece, terms,
            sums[t : t + 1],
        )  # fmt: skip
        is_done[t] = abs(sums[t, ABS_ERROR]) < np.inf
        lo, hi = ranges[0, 0], ranges[1, 0]
        for s in range(run_at(size - 1, inner, row, advance)[0] + 1):
            lo, hi = min(lo, ranges[0, s]), max(hi, ranges[1, s])
            num_degenerate[t] += flags[DEGENERATE, s]
        sums[t, INPUT_MIN], sums[t, INPUT_MAX] = lo, hi


@inlined
def differentiate(gradients, x, out, base, start, stop, inner, row, advance, first_slice, ranges, compute_type):
    """Gradient of the op: `gradients` where x is inside `ranges` (2, slices); returns the number outside."""
    outside = 0
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        lo, hi = flush(ranges[0, s], compute_type), flush(ranges[1, s], compute_type)
        for j in range(i - base, end - base):
            v = flush(decode(x[j]), compute_type)
            out[j] = encode(straight_through(decode(gradients[j]), v, lo, hi, compute_type), x[j])
            outside += not (v >= lo and v <= hi)
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)
    return outside
