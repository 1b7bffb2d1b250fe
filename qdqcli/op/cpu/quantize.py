"""CPU loops for fake quantization, with or without error sums, and for the gradient.

Arguments as in `cpu/ranges.py`; `x` and `y` hold stored elements (see `value.py`).
"""

import numpy as np

from qdqcli.op.columns import ABS_ERROR, CLIPPED, INPUT_MAX, INPUT_MIN
from qdqcli.op.cpu.errors import add_runs, begin_chunk, finish_chunk
from qdqcli.op.cpu.ranges import (
    decode_order_keys,
    make_qparams,
    measure_range,
    measure_short_runs,
    run_after,
    run_at,
    start_of,
)
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import always_inlined, inlined
from qdqcli.op.jit.vector import (
    count,
    load,
    load_part,
    mask_of_first,
    smaller,
    store_nontemporal,
    store_part,
)
from qdqcli.op.layout import Elements, Steps
from qdqcli.op.params import (
    CLIPPING,
    DEGENERATE,
    FLUSHING,
    INVERSE_SCALE,
    MAX_RANGE,
    MIN_RANGE,
    SCALE,
    Qparams,
)
from qdqcli.op.value import clamp, decode, encode, fake_quantize, flush, straight_through
from qdqcli.stats.sums import CHUNK_ELEMENTS

_WIDE_ROW = 16 * VECTOR_SIZE
_BAND = 4
"""Wide rows processed together, so that the qparams of a column are loaded once for all."""


# ------------------------------------------------------------------ value to value


@inlined
def _fake_quantized(stored, lo, hi, scale, inverse, flushing, op):
    """Quantize and dequantize a vector of stored elements; the result is not yet rounded to their dtype."""
    v = decode(stored)
    if flushing:  # constant within a run: the branch costs nothing
        v = flush(v, op.compute_type)
    return fake_quantize(_clamped(v, lo, hi, op.clamping), scale, inverse, op.half_up, op.compute_type)


@inlined
def _clamped(v, lo, hi, clamping):
    if clamping is None:
        return v
    return clamp(v, lo, hi)


@inlined
def _store(y, at, v, count, nontemporal):
    """Write the first `count` elements of a vector; non-temporal stores write all of it."""
    if nontemporal is None:
        store_part(y, at, v, count)
    else:
        store_nontemporal(y, at, v)


@inlined
def quantize(x, y, elements, steps, qparams, op, nontemporal):
    """Quantize and dequantize the elements of `x` into `y`.

    With `nontemporal` (non-temporal stores), y[0] is aligned to VECTOR_SIZE elements and every run, or row of columns,
    is whole vectors.
    """
    _quantize(x, y, elements, steps, qparams, op, nontemporal, qparams.columns)


@inlined
def _quantize(x, y, elements, steps, qparams, op, nontemporal, columns):
    if columns is None:  # of an argument, so that Numba compiles only one of them
        _quantize_runs(x, y, elements, steps, qparams, op, nontemporal)
    else:
        _quantize_columns(x, y, elements, steps.row, qparams, op, nontemporal)


@inlined
def _quantize_runs(x, y, elements, steps, qparams, op, nontemporal):
    values = qparams.values
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        lo, hi, scale, inverse = values[MIN_RANGE, s], values[MAX_RANGE, s], values[SCALE, s], values[INVERSE_SCALE, s]
        flushing = qparams.flags[FLUSHING, s]
        while i + VECTOR_SIZE <= end:
            stored = load(x, i - base)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, op)
            _store(y, i - base, encode(v, stored), VECTOR_SIZE, nontemporal)
            i += VECTOR_SIZE
        if i < end:
            stored = load_part(x, i - base, end - i)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, op)
            store_part(y, i - base, encode(v, stored), end - i)
        i = end
        s, run_end, left = run_after(s, run_end, steps, left)


@inlined
def _quantize_columns(x, y, elements, row, qparams, op, nontemporal):
    base, i, stop = elements
    while i < stop:
        column = i % row
        if row < _WIDE_ROW:
            end = stop
        elif column or i + _BAND * row > stop:
            end = smaller(i - column + row, stop)
        else:
            _quantize_band(x, y, i - base, row, qparams, op, nontemporal)
            i += _BAND * row
            continue
        _quantize_row(x, y, i - base, end - base, column, row, qparams, op)
        i = end


@inlined
def _quantize_band(x, y, begin, row, qparams, op, nontemporal):
    """Quantize _BAND whole rows, the first at x[begin]."""
    flushing = qparams.flags[FLUSHING, 0]
    for c in range(0, row, VECTOR_SIZE):
        lo, hi, scale, inverse = _column(qparams.values, c)
        for r in range(_BAND):
            at = begin + r * row + c
            stored = load_part(x, at, row - c)
            v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, op)
            _store(y, at, encode(v, stored), row - c, nontemporal)


@inlined
def _quantize_row(x, y, begin, end, c, row, qparams, op):
    """Quantize the elements [begin, end) of `x`, the first in column `c`."""
    flushing = qparams.flags[FLUSHING, 0]
    for i in range(begin, end, VECTOR_SIZE):
        lo, hi, scale, inverse = _column(qparams.values, c)
        stored = load_part(x, i, end - i)
        v = _fake_quantized(stored, lo, hi, scale, inverse, flushing, op)
        store_part(y, i, encode(v, stored), end - i)
        c = _next_column(c, row)


@always_inlined
def _column(values, c):
    """Qparams of the columns [c, c + VECTOR_SIZE)."""
    capacity = values.shape[1]
    lo, hi = load(values, MIN_RANGE * capacity + c), load(values, MAX_RANGE * capacity + c)
    return lo, hi, load(values, SCALE * capacity + c), load(values, INVERSE_SCALE * capacity + c)


@inlined
def _next_column(c, row):
    """Column VECTOR_SIZE elements further, wrapped at the row's end; a modulo would cost as much as all the rest."""
    c += VECTOR_SIZE
    while c >= row:
        c -= row
    return c


# ------------------------------------------------------------------ with error sums


@inlined
def quantize_and_sum(x, y, elements, steps, qparams, op, summing, sums):
    """`quantize`, and fill `sums` (chunks, SUM_COLUMNS), whose row 0 is the chunk that begins at the first element.

    A row with a non-finite ABS_ERROR must be summed again, see `look_closer` in `cpu/errors.py`. The input extremes are
    left unset.
    """
    base, start, stop = elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        clipped = 0
        begin_chunk(summing.terms)
        i = first
        while i < last:  # a range with this step would raise where it is 0, and the kernel not be stored
            source, here = x[i - base :], Elements(i, i, smaller(i + summing.piece.size, last))
            target = y[i - base :] if summing.keep and summing.nontemporal is None else summing.piece
            quantize(source, target, here, steps, qparams, op, None)
            if qparams.clipping:
                clipped += _count_outside(source, here, steps, qparams, qparams.columns)
            _add_piece(source, target, y, i - base, here.stop - i, summing.terms, summing.nontemporal)
            i = here.stop
        finish_chunk(x, first - base, last - first, summing.terms, sums[chunk])
        sums[chunk, CLIPPED] = clipped


@inlined
def _add_piece(x, piece, y, begin, count, terms, nontemporal):
    """Add `count` elements, and with `nontemporal` write the outputs in `piece` to y[begin:]."""
    if nontemporal is None:
        add_runs(x, piece, count, terms, None, piece)
    else:
        add_runs(x, piece, count, terms, nontemporal, y[begin:])
        k = count // VECTOR_SIZE * VECTOR_SIZE
        if k < count:  # the last, incomplete vector
            store_part(y, begin + k, load_part(piece, k, count - k), count - k)


@inlined
def _count_outside(x, elements, steps, qparams, columns):
    """Number of elements outside the range of their slice."""
    if columns is None:
        return _count_outside_runs(x, elements, steps, qparams)
    return _count_outside_columns(x, elements, steps.row, qparams.values)


@inlined
def _count_outside_runs(x, elements, steps, qparams):
    outside = 0
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        if qparams.flags[CLIPPING, s]:
            lo, hi = qparams.values[MIN_RANGE, s], qparams.values[MAX_RANGE, s]
            for k in range(i, end, VECTOR_SIZE):
                outside += _count_vector_outside(x, k - base, end - k, lo, hi)
        i = end
        s, run_end, left = run_after(s, run_end, steps, left)
    return outside


@inlined
def _count_outside_columns(x, elements, row, values):
    base, start, stop = elements
    capacity, outside, c = values.shape[1], 0, start % row
    for k in range(start, stop, VECTOR_SIZE):
        lo, hi = load(values, MIN_RANGE * capacity + c), load(values, MAX_RANGE * capacity + c)
        outside += _count_vector_outside(x, k - base, stop - k, lo, hi)
        c = _next_column(c, row)
    return outside


@inlined
def _count_vector_outside(x, at, left, lo, hi):
    v = decode(load_part(x, at, left))
    return count(((v < lo) | (v > hi)) & mask_of_first(left))


@inlined
def fake_quantize_and_sum(x, y, elements, steps, measuring, op, summing, sums):
    """Measure, quantize and sum in one call, where `x` holds whole slices of one run each, up to `steps.end`.

    `op` does not clamp.
    """
    order_keys, ranges = measuring.order_keys, measuring.ranges
    for s in range(order_keys.shape[1]):
        order_keys[0, s], order_keys[1, s] = measuring.nothing_lo, measuring.nothing_hi
    base, start, stop = elements
    num_slices = run_at(steps.end - 1, steps)[0] + 1
    shared = clipping = 0
    known = 0  # slices with qparams: those of a chunk get it just before, while the cache still holds their elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        needed = run_at(last - 1, steps)[0] // VECTOR_SIZE * VECTOR_SIZE + VECTOR_SIZE
        if needed > known:
            new = Elements(base, start_of(known, steps), start_of(needed, steps))
            measure(measuring.bits, new, steps, measuring, order_keys, measuring.short_runs)
            decode_order_keys(order_keys, x, known, needed, ranges)
            shared = clipping  # the slices shared with the previous chunk
            clipping = make_qparams(ranges, known, needed, num_slices, measuring, False, op.compute_type, measuring)
            known = needed
        here = Qparams(measuring.values, measuring.flags, None, shared + clipping > 0)
        quantize_and_sum(x, y, Elements(base, first, last), steps, here, op, summing, sums[chunk : chunk + 1])


@inlined
def measure(bits, elements, steps, limits, order_keys, short_runs):
    """Widen `order_keys` (2, slices) by whole slices of one run each."""
    if short_runs is None:
        measure_range(bits, elements, steps, limits, order_keys)
    else:
        measure_short_runs(bits, elements, steps, limits, order_keys)


@inlined
def fake_quantize_and_sum_each(x, y, layouts, measuring, op, summing, batch):
    """`fake_quantize_and_sum` for many tensors of at most a chunk each, which are parts of `x`.

    `layouts` (tensors, 5): first element, number of elements, and the layout's steps.
    """
    for t in range(layouts.shape[0]):
        begin, size = layouts[t, 0], layouts[t, 1]
        steps = Steps(layouts[t, 2], layouts[t, 3], layouts[t, 4], 0, size)
        row = batch.sums[t]
        fake_quantize_and_sum(x, y, Elements(-begin, 0, size), steps, measuring, op, summing, batch.sums[t : t + 1])
        batch.is_done[t] = abs(row[ABS_ERROR]) < np.inf
        lo, hi = measuring.ranges[0, 0], measuring.ranges[1, 0]
        for s in range(run_at(size - 1, steps)[0] + 1):
            lo, hi = min(lo, measuring.ranges[0, s]), max(hi, measuring.ranges[1, s])
            batch.num_degenerate[t] += measuring.flags[DEGENERATE, s]
        row[INPUT_MIN], row[INPUT_MAX] = lo, hi


@inlined
def fake_quantize_slices(x, y, first, last, steps, measuring, op, nontemporal):
    """Measure and quantize slices of one run each, a batch at a time: the data crosses the memory bus once.

    The scratch buffers of `measuring` are (rows, slices of a batch).
    """
    order_keys, batch = measuring.order_keys, measuring.order_keys.shape[1]
    qparams = Qparams(measuring.values, measuring.flags, None, False)
    while first < last:  # a range with this step would raise where it is 0
        end = smaller(first + batch, last)
        here = Elements(0, start_of(first, steps), start_of(end, steps))
        there = Steps(steps.inner, steps.row, steps.advance, first, steps.end)
        order_keys[0], order_keys[1] = measuring.nothing_lo, measuring.nothing_hi
        measure(measuring.bits, here, there, measuring, order_keys, measuring.short_runs)
        decode_order_keys(order_keys, x, 0, batch, measuring.ranges)
        make_qparams(measuring.ranges, 0, batch, end - first, measuring, False, op.compute_type, qparams)
        quantize(x, y, here, there, qparams, op, nontemporal)
        first = end


@inlined
def differentiate(gradients, x, out, elements, steps, ranges, compute_type):
    """Gradient of the op: `gradients` where x is inside `ranges` (2, slices); returns the number outside."""
    outside = 0
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        lo, hi = flush(ranges[0, s], compute_type), flush(ranges[1, s], compute_type)
        for j in range(i - base, end - base):
            v = flush(decode(x[j]), compute_type)
            out[j] = encode(straight_through(decode(gradients[j]), v, lo, hi, compute_type), x[j])
            outside += not (v >= lo and v <= hi)
        i = end
        s, run_end, left = run_after(s, run_end, steps, left)
    return outside
