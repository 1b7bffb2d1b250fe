"""CPU loops from elements to qparams: smallest and largest element of each slice, then the op's range step.

Elements are bit patterns (int16, int32 or int64), which `order_key` turns into integers that order like the floats:
integer minimum and maximum are exact in any order, and a NaN is a key beyond infinity's.

Kernels work on some `elements` of a flat tensor, whose slices follow from `steps` (see `op/layout.py`). They are serial
and release the GIL: callers run them in their own threads. Vector types only: each extra scalar type adds compile time.
"""

from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    any_true,
    as_elements,
    broadcast,
    count,
    greatest,
    greatest_of_pairs,
    larger,
    least,
    least_of_pairs,
    load,
    load_part,
    mask_of_first,
    smaller,
    store,
    store_part,
)
from qdqcli.op.layout import Elements
from qdqcli.op.params import CLIPPING, DEGENERATE, FLUSHING, INVERSE_SCALE, MAX_RANGE, MIN_RANGE, SCALE
from qdqcli.op.primitives import select
from qdqcli.op.value import decode, flush, is_degenerate, needs_flush, order_key, qparams_of_range


@inlined
def run_at(i, steps):
    """Return the slice of element `i`, the end of its run, and the elements left in the row behind that."""
    inner, row = steps.inner, steps.row
    column = i % row
    run_end = smaller(column - column % inner + inner, row)
    return i // row * steps.advance + column // inner - steps.first_slice, i - column + run_end, row - run_end


@inlined
def run_after(s, end, steps, left):
    """`run_at` for element `end`, at which the run of slice `s` ended with `left` elements of the row behind it.

    Avoids divisions: three of them cost more than the work on a group of 32.
    """
    if left:
        s += 1
    else:
        s, left = s + 1 if steps.advance else -steps.first_slice, steps.row
    size = smaller(steps.inner, left)
    return s, end + size, left - size


@inlined
def start_of(s, steps):
    """First element of a slice of one run."""
    number = s + steps.first_slice
    if steps.advance:
        return smaller(number // steps.advance * steps.row + number % steps.advance * steps.inner, steps.end)
    return smaller(number * steps.inner, steps.end)


@inlined
def measure_range(x, elements, steps, limits, order_keys):
    """Widen `order_keys` (2, slices) by the smallest and the largest element that is not NaN."""
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        lo, hi = broadcast(limits.nothing_lo), broadcast(limits.nothing_hi)
        lo1, hi1, lo2, hi2, lo3, hi3 = lo, hi, lo, hi, lo, hi
        at, to = i - base, end - base
        while at + 4 * VECTOR_SIZE <= to:  # four accumulators: each minimum depends on the one before
            a, b = order_key(load(x, at)), order_key(load(x, at + VECTOR_SIZE))
            c, d = order_key(load(x, at + 2 * VECTOR_SIZE)), order_key(load(x, at + 3 * VECTOR_SIZE))
            lo, hi, lo1, hi1 = smaller(a, lo), larger(a, hi), smaller(b, lo1), larger(b, hi1)
            lo2, hi2, lo3, hi3 = smaller(c, lo2), larger(c, hi2), smaller(d, lo3), larger(d, hi3)
            at += 4 * VECTOR_SIZE
        while at < to:
            a = order_key(load_part(x, at, to - at))
            lo, hi = smaller(a, lo), larger(a, hi)
            at += VECTOR_SIZE
        least_key = least(smaller(smaller(lo, lo1), smaller(lo2, lo3)))
        greatest_key = greatest(larger(larger(hi, hi1), larger(hi2, hi3)))
        if greatest_key > limits.infinity or least_key < -limits.infinity - 1:
            least_key, greatest_key = _without_nan(x, i - base, to, limits)
        order_keys[0, s] = smaller(order_keys[0, s], least_key)
        order_keys[1, s] = larger(order_keys[1, s], greatest_key)
        i = end
        s, run_end, left = run_after(s, run_end, steps, left)


@inlined
def _without_nan(x, at, to, limits):
    """Smallest and largest key of x[at:to], ignoring NaN."""
    lo, hi = broadcast(limits.nothing_lo), broadcast(limits.nothing_hi)
    while at < to:
        lo, hi = _widened(order_key(load_part(x, at, to - at)), lo, hi, limits)
        at += VECTOR_SIZE
    return least(lo), greatest(hi)


@inlined
def _widened(key, lo, hi, limits):
    """Widen the smallest and the largest key of each lane, ignoring NaN."""
    is_nan = _is_beyond(key, key, limits)
    return smaller(select(is_nan, limits.nothing_lo, key), lo), larger(select(is_nan, limits.nothing_hi, key), hi)


@inlined
def _is_beyond(lo, hi, limits):
    """Tell whether a NaN is among the keys with these extremes."""
    return (hi > limits.infinity) | (lo < -limits.infinity - 1)


@inlined
def measure_short_runs(x, elements, steps, limits, order_keys):
    """`measure_range` for contiguous slices of a few whole vectors, one run each: VECTOR_SIZE slices at a time.

    `start` begins a slice. Reducing the lanes of each slice separately would take most of the time.
    """
    base, start, stop = elements
    capacity, batch = order_keys.shape[1], VECTOR_SIZE * steps.inner
    i = start - batch
    while i + batch < stop:  # a range with this step would raise where it is 0
        i += batch
        if i + batch <= stop:
            lo, hi = _of_sixteen(x, i - base, steps.inner)
            if not any_true(_is_beyond(lo, hi, limits)):
                s = i // steps.inner - steps.first_slice
                store(order_keys, s, smaller(lo, load(order_keys, s)))
                store(order_keys, capacity + s, larger(hi, load(order_keys, capacity + s)))
                continue
        measure_range(x, Elements(base, i, smaller(i + batch, stop)), steps, limits, order_keys)


@inlined
def _of_one(x, at, inner):
    """Extremes of one run, per lane."""
    lo = order_key(load(x, at))
    hi = lo
    for i in range(at + VECTOR_SIZE, at + inner, VECTOR_SIZE):
        key = order_key(load(x, i))
        lo, hi = smaller(key, lo), larger(key, hi)
    return lo, hi


def _twice(of_half, number):
    """Return `_of_one` for twice the `number` of runs of `of_half`: their lanes in order, fewer for each."""

    @inlined
    def of_all(x, at, inner):
        (lo, hi), (lo1, hi1) = of_half(x, at, inner), of_half(x, at + number * inner, inner)
        return least_of_pairs(lo, lo1), greatest_of_pairs(hi, hi1)

    return of_all


_of_sixteen = _twice(_twice(_twice(_twice(_of_one, 1), 2), 4), 8)
"""Extremes of sixteen runs, one lane each, in order."""


@inlined
def measure_columns(x, elements, row, limits, order_keys):
    """`measure_range` for slices of one column each: `order_keys` (2, row), rows of `row` elements."""
    base, i, stop = elements
    while i < stop:
        column = i % row
        # partial rows at both ends, whole rows between, eight at a time: memory is read in eight streams
        rows = 1 if column or stop - i < row else smaller(8, (stop - i) // row)
        width = smaller(row - column, stop - i)
        j = 0
        if rows == 8:
            while j + VECTOR_SIZE <= width:
                _widen_columns(x, i - base + j, row, j, limits, order_keys)
                j += VECTOR_SIZE
        while j < width:
            _widen_last_columns(x, i - base + j, row, rows, width - j, column + j, limits, order_keys)
            j += VECTOR_SIZE
        i += rows * width


@inlined
def _widen_columns(x, first, step, column, limits, order_keys):
    """Widen `order_keys` by VECTOR_SIZE columns of 8 rows from `column` on, the first at x[first], `step` apart."""
    capacity = order_keys.shape[1]
    lo = order_key(load(x, first))
    hi = lo
    for r in range(1, 8):
        key = order_key(load(x, first + r * step))
        lo, hi = smaller(key, lo), larger(key, hi)
    if any_true(_is_beyond(lo, hi, limits)):  # a NaN: repeat, ignoring it
        _widen_last_columns(x, first, step, 8, VECTOR_SIZE, column, limits, order_keys)
        return
    store(order_keys, column, smaller(lo, load(order_keys, column)))
    store(order_keys, capacity + column, larger(hi, load(order_keys, capacity + column)))


@inlined
def _widen_last_columns(x, first, step, rows, width, column, limits, order_keys):
    """Widen `order_keys` by at most VECTOR_SIZE columns of `rows` rows, ignoring NaN."""
    capacity = order_keys.shape[1]
    lo, hi = broadcast(limits.nothing_lo), broadcast(limits.nothing_hi)
    for r in range(rows):
        lo, hi = _widened(order_key(load_part(x, first + r * step, width)), lo, hi, limits)
    store_part(order_keys, column, smaller(lo, load_part(order_keys, column, width)), width)
    store_part(order_keys, capacity + column, larger(hi, load_part(order_keys, capacity + column, width)), width)


@inlined
def decode_order_keys(order_keys, x, first, last, ranges):
    """Decode the keys of the columns [first, last) into `ranges` (2, slices); the keys become patterns.

    Elements have the dtype of `x`; columns as in `make_qparams`. A slice of NaN only has the pattern of a NaN.
    """
    capacity = ranges.shape[1]
    for s in range(first, last, VECTOR_SIZE):
        lo, hi = order_key(load(order_keys, s)), order_key(load(order_keys, capacity + s))
        store(order_keys, s, lo)
        store(order_keys, capacity + s, hi)
        store(ranges, s, decode(as_elements(lo, x)))
        store(ranges, capacity + s, decode(as_elements(hi, x)))


@inlined
def make_qparams(ranges, first, last, codes, range_given, compute_type, qparams):
    """Fill the values and the flags of `qparams` from the columns [first, last) of `ranges` (2, slices).

    Column `first` becomes column 0. Columns are read and filled in whole vectors. Returns the number of slices with
    elements that may be outside the range.
    """
    values, flags = qparams.values, qparams.flags
    beside, capacity, clipping = ranges.shape[1], values.shape[1], 0
    for s in range(0, last - first, VECTOR_SIZE):
        measured_lo, measured_hi = load(ranges, first + s), load(ranges, beside + first + s)
        lo, hi, scale, inverse = qparams_of_range(
            flush(measured_lo, compute_type), flush(measured_hi, compute_type), codes.q_min, codes.q_max, compute_type
        )
        store_qparams(values, s, (lo, hi, scale, inverse))
        store(flags, FLUSHING * capacity + s, needs_flush(lo, hi, scale, range_given, compute_type))
        clips = range_given | (measured_lo < lo) | (measured_hi > hi)
        store(flags, CLIPPING * capacity + s, clips)
        store(flags, DEGENERATE * capacity + s, is_degenerate(scale, compute_type))
        clipping += count(clips & mask_of_first(last - first - s))
    return clipping


@inlined
def store_qparams(values, s, qparams):
    """Store the qparams of the columns [s, s + VECTOR_SIZE)."""
    lo, hi, scale, inverse = qparams
    capacity = values.shape[1]
    store(values, MIN_RANGE * capacity + s, lo)
    store(values, MAX_RANGE * capacity + s, hi)
    store(values, SCALE * capacity + s, scale)
    store(values, INVERSE_SCALE * capacity + s, inverse)


@inlined
def qparams_of(values, s):
    """Return the qparams of slice `s`: lo, hi, scale, inverse scale."""
    return values[MIN_RANGE, s], values[MAX_RANGE, s], values[SCALE, s], values[INVERSE_SCALE, s]


@inlined
def qparams_from(values, s):
    """Return the qparams of the columns [s, s + VECTOR_SIZE)."""
    capacity = values.shape[1]
    lo, hi = load(values, MIN_RANGE * capacity + s), load(values, MAX_RANGE * capacity + s)
    return lo, hi, load(values, SCALE * capacity + s), load(values, INVERSE_SCALE * capacity + s)
