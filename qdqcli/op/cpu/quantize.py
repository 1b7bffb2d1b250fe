"""The CPU's loops from values to values: quantize and dequantize, alone or together with the error sums; the gradient.

Arguments as in `cpu/ranges.py`; `x` and `y` hold stored elements (see `value.py`).
"""

from qdqcli.op.columns import CLIPPED
from qdqcli.op.cpu.errors import PIECE, add_runs, begin_chunk, finish_chunk
from qdqcli.op.cpu.file_access import read_at, write_at
from qdqcli.op.cpu.ranges import decode_keys, make_grids, measure_range, measure_short_runs, run_after, run_at, start_of
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    LANES,
    count,
    first_lanes,
    load,
    load_part,
    smaller,
    store,
    store_part,
    stream,
)
from qdqcli.op.params import CLIPPING, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.value import clamp, decode, encode, flush, requantize, straight_through
from qdqcli.stats.sums import CHUNK_ELEMENTS

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
def quantize_and_sum(
    x, y, base, start, stop, inner, row, advance, first_slice, grids, flags, columns, clipping, clamping, half_up, like,
    keep, streaming, piece, terms, sums,
):  # fmt: skip
    """`quantize`, and fill `sums` (chunks, SUM_COLUMNS), row 0 the chunk that begins at `start`.

    With `columns`, `quantize_columns`: then elements are counted from a column 0, and `flags` are those of all slices.
    Unless `clipping`, no element can be out of range. Only to `keep` them outputs are written to `y`; with `streaming`
    past the caches: then y[0] lies as many elements behind a multiple of LANES as `base` does. A row whose ABS_ERROR is
    not finite needs a closer look, see `cpu/errors.py`. The extremes of the input are left alone.
    """
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        clipped = 0
        begin_chunk(terms)
        for i in range(first, last, PIECE):
            end, source = smaller(i + PIECE, last), x[i - base :]
            target = piece
            if keep is not None:  # noqa: SIM102  # a condition of its own: Numba then leaves out what is in it
                if streaming is None:
                    target = y[i - base :]
            if columns is None:
                quantize(
                    source, target, i, i, end, inner, row, advance, first_slice, grids, flags, clamping, half_up, like,
                    None,
                )  # fmt: skip
                if clipping:
                    clipped += count_outside(source, i, i, end, inner, row, advance, first_slice, grids, flags)
            else:
                quantize_columns(
                    source, target, i, i, end, row, grids, flags[FLUSHING, 0], clamping, half_up, like, None
                )
                if clipping:
                    clipped += count_outside_columns(source, i, end, row, grids)
            add_runs(source, 0, target, 0, end - i, terms, streaming, y, i - base)
            if streaming is not None:
                _store_rest(piece, y, i - base, end - i)
        finish_chunk(x, first - base, last - first, terms, sums[chunk])
        sums[chunk, CLIPPED] = clipped


@inlined
def _store_rest(piece, y, begin, count):
    """y[begin : begin + count] = piece[:count] for the last lanes, where they are not whole."""
    k = count // LANES * LANES
    if k < count:
        store_part(y, begin + k, load_part(piece, k, count - k), count - k)


@inlined
def count_outside(x, base, start, stop, inner, row, advance, first_slice, grids, flags):
    """The number of elements outside the range of their slice."""
    outside = 0
    i = start
    run, run_end, left = run_at(start, inner, row, advance)
    while i < stop:
        s, end = run - first_slice, smaller(run_end, stop)
        if flags[CLIPPING, s]:
            lo, hi = grids[MIN_RANGE, s], grids[MAX_RANGE, s]
            for k in range(i, end, LANES):
                v = decode(load_part(x, k - base, end - k))
                outside += count(((v < lo) | (v > hi)) & first_lanes(end - k))
        i = end
        run, run_end, left = run_after(run, run_end, inner, row, advance, left)
    return outside


@inlined
def count_outside_columns(x, start, stop, row, grids):
    """The same for `grids` as in `quantize_columns`; x[0] is element `start`."""
    room, outside, c = grids.shape[1], 0, start % row
    for k in range(0, stop - start, LANES):
        v = decode(load_part(x, k, stop - start - k))
        lo, hi = load(grids, MIN_RANGE * room + c), load(grids, MAX_RANGE * room + c)
        outside += count(((v < lo) | (v > hi)) & first_lanes(stop - start - k))
        c = _next_column(c, row)
    return outside


@inlined
def requantize_and_sum(
    source, sink, x, bits, y, base, start, stop, inner, row, advance, first_slice, infinity, nothing, q_min, q_max,
    half_up, like, short_runs, keep, streaming, keys, ends, grids, flags, piece, terms, sums, trouble,
):  # fmt: skip
    """From elements to error sums in one call, where `x` holds whole slices of one run each, measured themselves.

    `short_runs` says that slices are as `measure_short_runs` takes them. `bits` are the same elements as integers;
    `keys`, `ends`, `grids` and `flags` are room for the slices. Unless they are None, `x` is filled from `source`, and
    what is made of the elements [start, stop) goes to `sink`, each a descriptor and the byte at which the tensor
    begins; `trouble` notes where that fails. False then: nothing is known.
    """
    for s in range(keys.shape[1]):
        keys[0, s], keys[1, s] = nothing[0], nothing[1]
    size = base + x.size
    num_slices = run_at(size - 1, inner, row, advance)[0] + 1 - first_slice
    shared = clipping = 0
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
            shared = clipping  # the slices behind the chunk before
            clipping = make_grids(ends, known, needed, num_slices, q_min, q_max, False, like, grids, flags)
            known = needed
        here = sums[chunk : chunk + 1]
        quantize_and_sum(
            x, y, base, first, last, inner, row, advance, first_slice, grids, flags, None, shared + clipping > 0, None,
            half_up, like, keep, streaming, piece, terms, here,
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
