"""The CPU's loops from values to values: quantize and dequantize, alone or together with the error sums; the gradient.

Arguments as in `cpu_range.py`; `x` and `y` hold stored elements (see `value.py`).

Order of addition, on which the bits of every statistic rest: a chunk is CHUNK_ELEMENTS elements from a multiple of it
on; element i of a chunk is added in lane i % 16, each lane in float64 one element after another; the lanes are then
added pairwise, k and k + 8, k and k + 4, k and k + 2, k and k + 1. Elements that are left out add nothing.
"""

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.cpu_range import (
    CLIPPING,
    FLUSHING,
    INVERSE_SCALE,
    MAX_RANGE,
    MIN_RANGE,
    SCALE,
    decode_keys,
    make_grids,
    measure_range,
    measure_short_runs,
    run_after,
    run_at,
    start_of,
)
from qdqcli.op.file_access import read_at, write_at
from qdqcli.op.internal import inlined
from qdqcli.op.lanes import (
    LANES,
    count,
    first_lanes,
    greatest,
    larger,
    load,
    load_part,
    masked,
    opaque,
    smaller,
    splat,
    store,
    store_part,
    stream,
    tree_sum,
)
from qdqcli.op.primitives import narrow, select, widen_to_double
from qdqcli.op.value import (
    clamp,
    decode,
    difference,
    encode,
    flush,
    number_pattern,
    pattern,
    plus_product,
    requantize,
    straight_through,
    value_of_pattern,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

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


def empty_sums(rows: int) -> NDArray[np.float64]:
    """Rows (rows, SUM_COLUMNS) to which nothing was added yet."""
    sums = np.zeros((rows, SUM_COLUMNS))
    sums[:, INPUT_MIN], sums[:, INPUT_MAX] = np.inf, -np.inf
    return sums


# ------------------------------------------------------------------ value to value


@inlined
def _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like):
    """Lanes of stored elements to the values of what becomes of them, before they are rounded to their dtype."""
    v = decode(stored)
    if flushing:  # for a whole run: a branch that costs nothing
        v = flush(v, like)
    if clamping is not None:
        v = clamp(v, lo, hi)
    return requantize(v, scale, inverse, half_up, like)


@inlined
def quantize(
    x, y, base, start, stop, inner, row, advance, first_slice, grids, flags, clamping, half_up, like, streaming
):
    """Quantize and dequantize the elements of `x` into `y`.

    `streaming` writes past the caches; then y[0] lies at a multiple of LANES elements, and every run is whole lanes.
    """
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        lo, hi, scale, inverse = grids[MIN_RANGE, s], grids[MAX_RANGE, s], grids[SCALE, s], grids[INVERSE_SCALE, s]
        flushing = flags[FLUSHING, s]
        while i + LANES <= end:
            stored = load(x, i - base)
            v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
            if streaming is None:
                store(y, i - base, encode(v, stored))
            else:
                stream(y, i - base, encode(v, stored))
            i += LANES
        if i < end:
            stored = load_part(x, i - base, end - i)
            v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
            store_part(y, i - base, encode(v, stored), end - i)
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)


@inlined
def quantize_columns(x, y, base, start, stop, row, grids, flushing, clamping, half_up, like, streaming):
    """`quantize` for short runs: `grids` (GRID_ROWS, row + LANES) has a column for each of a row, then begins again.

    With `streaming`, rows are whole lanes, and y[0] lies at a multiple of LANES elements.
    """
    i = start
    while i < stop:
        column = i % row
        if row < _WIDE_ROW:
            end = stop
        elif column or i + _BAND * row > stop:
            end = smaller(i - column + row, stop)
        else:
            _quantize_band(x, y, i - base, row, grids, flushing, clamping, half_up, like, streaming)
            i += _BAND * row
            continue
        _quantize_row(x, y, i - base, end - base, column, row, grids, flushing, clamping, half_up, like)
        i = end


_WIDE_ROW = 16 * LANES
_BAND = 4
"""Rows that are worked on side by side where they are wide: the grids of a column are loaded once for all."""


@inlined
def _quantize_band(x, y, begin, row, grids, flushing, clamping, half_up, like, streaming):
    """Whole rows, the first at x[begin]."""
    room = grids.shape[1]
    for c in range(0, row, LANES):
        lo, hi = load(grids, MIN_RANGE * room + c), load(grids, MAX_RANGE * room + c)
        scale, inverse = load(grids, SCALE * room + c), load(grids, INVERSE_SCALE * room + c)
        for r in range(_BAND):
            at = begin + r * row + c
            stored = load_part(x, at, row - c)
            v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
            if streaming is None:
                store_part(y, at, encode(v, stored), row - c)
            else:
                stream(y, at, encode(v, stored))


@inlined
def _quantize_row(x, y, begin, end, c, row, grids, flushing, clamping, half_up, like):
    """The elements [begin, end) of `x`, the first in column `c`."""
    room = grids.shape[1]
    for i in range(begin, end, LANES):
        lo, hi = load(grids, MIN_RANGE * room + c), load(grids, MAX_RANGE * room + c)
        scale, inverse = load(grids, SCALE * room + c), load(grids, INVERSE_SCALE * room + c)
        stored = load_part(x, i, end - i)
        v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
        store_part(y, i, encode(v, stored), end - i)
        c = _next_column(c, row)


@inlined
def _next_column(c, row):
    """The column LANES elements further, begun again behind a row; a remainder would cost as much as all the rest."""
    c += LANES
    while c >= row:
        c -= row
    return c


# ------------------------------------------------------------------ with error sums


@inlined
def _add(x, out, lanes, half_up, rounding):
    """Add stored elements and the patterns of what became of them."""
    error, abs_error, sq_error, sq_input, error_input, peak, zeroed, magnitude = lanes
    v, w = decode(x), value_of_pattern(out, x)
    moved = difference(w, v, half_up, rounding)
    a, e = widen_to_double(v), widen_to_double(moved)
    return (
        error + e,
        abs_error + masked(e, magnitude),
        plus_product(sq_error, e, e, x, rounding),
        plus_product(sq_input, a, a, x, rounding),
        plus_product(error_input, e, a, x, rounding),
        larger(abs(moved), peak),
        zeroed + count((w == 0.0) & (v != 0.0)),
        magnitude,
    )


@inlined
def _nothing(number, half_up, rounding):
    """The running sums of a chunk before its first element; `number` is a zero of the type that `decode` gives."""
    zero, peak = splat(0.0), splat(number)
    peak = difference(peak, peak, half_up, rounding)
    return zero, zero, zero, zero, zero, peak, 0, splat(opaque(np.int64(2**63 - 1)))


@inlined
def _finish(lanes, clipped, sums, chunk):
    """Fold the lanes into a chunk's row; what is not finite there was not finite before or after."""
    error, abs_error, sq_error, sq_input, error_input, peak, zeroed, _ = lanes
    sums[chunk, ERROR] = tree_sum(error)
    sums[chunk, ABS_ERROR] = tree_sum(abs_error)
    sums[chunk, SQ_ERROR] = tree_sum(sq_error)
    sums[chunk, SQ_INPUT] = tree_sum(sq_input)
    sums[chunk, ERROR_INPUT] = tree_sum(error_input)
    sums[chunk, MAX_ABS_ERROR] = greatest(peak)
    sums[chunk, CLIPPED] = clipped
    sums[chunk, ZEROED] = zeroed


@inlined
def quantize_and_sum(
    x, y, base, start, stop, inner, row, advance, first_slice, grids, flags, clamping, half_up, like, rounding, keep,
    streaming, sums,
):  # fmt: skip
    """`quantize`, and fill `sums` (chunks, SUM_COLUMNS), row 0 the chunk that begins at `start`.

    Only to `keep` them outputs are written to `y`; with `streaming` past the caches: then y[0] lies as many elements
    behind a multiple of LANES as `base` does. INPUT_MIN, INPUT_MAX and the counts of elements that are not finite
    are left alone. A row whose ABS_ERROR is not finite met such elements: `sum_carefully` does it again, and its NaN in
    `y` are not the canonical ones.
    """
    for chunk in range(sums.shape[0]):
        i = start + chunk * CHUNK_ELEMENTS
        last = smaller(i + CHUNK_ELEMENTS, stop)
        lanes, clipped = _nothing(grids.dtype.type(0), half_up, rounding), 0
        run, run_end, left = run_at(i, inner, row, advance)
        while i < last:
            s, end = run - first_slice, smaller(run_end, last)
            lo, hi, scale, inverse = grids[MIN_RANGE, s], grids[MAX_RANGE, s], grids[SCALE, s], grids[INVERSE_SCALE, s]
            flushing, clipping = flags[FLUSHING, s], flags[CLIPPING, s]
            while i + LANES <= end:
                stored = load(x, i - base)
                v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
                out = number_pattern(v, stored)
                if keep is not None:
                    _keep(y, i - base, narrow(out, stored), streaming)
                lanes = _add(stored, out, lanes, half_up, rounding)
                if clipping:
                    clipped += _count_outside(stored, lo, hi)
                i += LANES
            if i < end:  # lanes in which the slice ends
                width = smaller(LANES, last - i)
                stored = select(first_lanes(width), load_part(x, i - base, width), 0)
                out, outside = _convert_pieces(
                    stored, i, width, inner, row, advance, first_slice, grids, flags, clamping, half_up, like
                )
                if keep is not None:
                    store_part(y, i - base, narrow(out, stored), width)
                lanes = _add(stored, out, lanes, half_up, rounding)
                clipped += outside
                i += LANES
            while run_end <= i and i < last:
                run, run_end, left = run_after(run, run_end, inner, row, advance, left)
        _finish(lanes, clipped, sums, chunk)


@inlined
def _keep(y, i, lanes, streaming):
    if streaming is None:
        store(y, i, lanes)
    else:
        stream(y, i, lanes)


@inlined
def _count_outside(stored, lo, hi):
    v = decode(stored)
    return count((v < lo) | (v > hi))


@inlined
def _convert_pieces(stored, i, width, inner, row, advance, first_slice, grids, flags, clamping, half_up, like):
    """Lanes of `width` elements of several slices, from element `i` on, and how many were out of range."""
    out, outside, done = pattern(decode(stored), stored), 0, 0
    while done < width:
        s, end, _ = run_at(i + done, inner, row, advance)
        s -= first_slice
        lo, hi, scale, inverse = grids[MIN_RANGE, s], grids[MAX_RANGE, s], grids[SCALE, s], grids[INVERSE_SCALE, s]
        before, upto = first_lanes(done), first_lanes(smaller(end - i, width))
        piece = _requantized(stored, lo, hi, scale, inverse, flags[FLUSHING, s], clamping, half_up, like)
        out = select(before, out, pattern(piece, stored))
        v = decode(stored)
        outside += count(((v < lo) | (v > hi)) & (before ^ upto))
        done = smaller(end - i, width)
    return select(first_lanes(width), out, 0), outside  # a zero that stays one adds nothing


@inlined
def quantize_and_sum_columns(
    x, y, base, start, stop, row, grids, flushing, clipping, clamping, half_up, like, rounding, keep, streaming, sums
):
    """`quantize_and_sum` for short runs, with `grids` as in `quantize_columns`.

    Unless `clipping`, no element can be out of range.
    """
    room = grids.shape[1]
    for chunk in range(sums.shape[0]):
        i = start + chunk * CHUNK_ELEMENTS
        last = smaller(i + CHUNK_ELEMENTS, stop)
        lanes, clipped = _nothing(grids.dtype.type(0), half_up, rounding), 0
        c = i % row
        while i < last:
            lo, hi = load(grids, MIN_RANGE * room + c), load(grids, MAX_RANGE * room + c)
            scale, inverse = load(grids, SCALE * room + c), load(grids, INVERSE_SCALE * room + c)
            if i + LANES <= last:
                stored = load(x, i - base)
                v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
                out = number_pattern(v, stored)
                if keep is not None:
                    _keep(y, i - base, narrow(out, stored), streaming)
            else:
                width = last - i
                valid = first_lanes(width)
                stored = select(valid, load_part(x, i - base, width), 0)
                v = _requantized(stored, lo, hi, scale, inverse, flushing, clamping, half_up, like)
                out = select(valid, number_pattern(v, stored), 0)
                if keep is not None:
                    store_part(y, i - base, narrow(out, stored), width)
            lanes = _add(stored, out, lanes, half_up, rounding)
            if clipping:
                v = decode(stored)
                clipped += count(((v < lo) | (v > hi)) & first_lanes(last - i))
            i += LANES
            c = _next_column(c, row)
        _finish(lanes, clipped, sums, chunk)


@inlined
def requantize_and_sum(
    source, sink, x, bits, y, base, start, stop, inner, row, advance, first_slice, infinity, nothing, q_min, q_max,
    half_up, like, short_runs, keep, streaming, keys, ends, grids, flags, sums, trouble,
):  # fmt: skip
    """From elements to error sums in one call, where `x` holds whole slices of one run each, measured themselves.

    `short_runs` says that slices are as `measure_short_runs` takes them. `bits` are the same elements as integers;
    `keys`, `ends`, `grids` and `flags` are room for the slices. Unless they are None, `x` is filled from `source`, and
    what is made of the elements [start, stop) goes to `sink`, each a descriptor and the byte at which the tensor
    begins; `trouble` notes where that fails. False then, and on a degenerate grid, where products are not exact:
    nothing is known.
    """
    for s in range(keys.shape[1]):
        keys[0, s], keys[1, s] = nothing[0], nothing[1]
    size = base + x.size
    num_slices = run_at(size - 1, inner, row, advance)[0] + 1 - first_slice
    known = 0  # slices that have a grid: those of a chunk get it just before, so the cache still holds their elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        needed = (run_at(last - 1, inner, row, advance)[0] - first_slice) // LANES * LANES + LANES
        if needed > known:
            begin = start_of(first_slice + known, inner, row, advance, size)
            end = start_of(first_slice + needed, inner, row, advance, size)
            if source is not None:
                there = source[1] + begin * x.itemsize
                if not read_at(source[0], there, x[begin - base :], end - begin, trouble):
                    return False
            if short_runs is None:
                measure_range(bits, base, begin, end, inner, row, advance, first_slice, infinity, nothing, keys)
            else:
                measure_short_runs(bits, base, begin, end, inner, row, advance, first_slice, infinity, nothing, keys)
            decode_keys(keys, x, known, needed, ends)
            if make_grids(ends, known, needed, num_slices, q_min, q_max, False, like, grids, flags):
                return False
            known = needed
        here = sums[chunk : chunk + 1]
        quantize_and_sum(
            x, y, base, first, last, inner, row, advance, first_slice, grids, flags, None, half_up, like, None, keep,
            streaming, here,
        )  # fmt: skip
        if sink is not None:
            there = sink[1] + first * y.itemsize
            if not write_at(sink[0], there, y[first - base :], last - first, trouble):
                return False
    return True


@inlined
def differentiate(gradients, x, out, base, start, stop, inner, row, advance, first_slice, ends, like):
    """The op's gradient: `gradients` where x is inside `ends` (2, slices); returns the number outside."""
    outside = 0
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        lo, hi = flush(ends[0, s], like), flush(ends[1, s], like)
        for j in range(i - base, end - base):
            v = flush(decode(x[j]), like)
            out[j] = encode(straight_through(decode(gradients[j]), v, lo, hi, like), x[j])
            outside += not (v >= lo and v <= hi)
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)
    return outside
