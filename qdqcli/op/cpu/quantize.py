"""CPU loops for fake quantization, with or without error sums, and for the gradient.

Arguments as in `cpu/ranges.py`; `x` and `y` hold stored elements (see `value.py`).
"""

from qdqcli.op.arguments import RUN
from qdqcli.op.columns import CLIPPED
from qdqcli.op.cpu.errors import add_elements, add_run, begin_chunk, finish_chunk, no_sums
from qdqcli.op.cpu.ranges import (
    decode_order_keys,
    make_qparams,
    measure_range,
    measure_short_runs,
    qparams_from,
    qparams_of,
    run_after,
    run_at,
    start_of,
)
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    count,
    first_some,
    load,
    load_part,
    load_some,
    load_where,
    mask_of_first,
    prefetch,
    smaller,
    store,
    store_nontemporal,
    store_part,
    store_where,
    width,
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
    Codes,
    Qparams,
)
from qdqcli.op.primitives import narrow, select
from qdqcli.op.value import (
    clamp,
    decode,
    encode,
    fake_quantize,
    flush,
    number_pattern,
    straight_through,
    value_of_pattern,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

_WIDE_ROW = 16 * VECTOR_SIZE
_BAND = 4
"""Wide rows processed together, so that the qparams of a column are loaded once for all."""


# ------------------------------------------------------------------ value to value


@inlined
def _fake_quantized(v, qparams, flushing, op):
    """Quantize and dequantize a vector of decoded elements; the result is not yet rounded to their dtype."""
    lo, hi, scale, inverse = qparams
    if flushing:  # constant within a run: the branch costs nothing
        v = flush(v, op.compute_type)
    return fake_quantize(_clamped(v, lo, hi, op.clamping), scale, inverse, op.half_up, op.compute_type)


@inlined
def _clamped(v, lo, hi, clamping):
    if clamping is None:
        return v
    return clamp(v, lo, hi)


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
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        of_slice, flushing = qparams_of(qparams.values, s), qparams.flags[FLUSHING, s]
        while i + VECTOR_SIZE <= end:
            stored = load(x, i - base)
            v = _fake_quantized(decode(stored), of_slice, flushing, op)
            _store(y, i - base, encode(v, stored), VECTOR_SIZE, nontemporal)
            i += VECTOR_SIZE
        if i < end:
            stored = load_part(x, i - base, end - i)
            v = _fake_quantized(decode(stored), of_slice, flushing, op)
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
    for c in range(0, row, VECTOR_SIZE):
        of_columns = qparams_from(qparams.values, c)
        for r in range(_BAND):
            at = begin + r * row + c
            stored = load_part(x, at, row - c)
            v = _fake_quantized(decode(stored), of_columns, qparams.flags[FLUSHING, 0], op)
            _store(y, at, encode(v, stored), row - c, nontemporal)


@inlined
def _quantize_row(x, y, begin, end, c, row, qparams, op):
    """Quantize the elements [begin, end) of `x`, the first in column `c`."""
    for i in range(begin, end, VECTOR_SIZE):
        stored = load_part(x, i, end - i)
        v = _fake_quantized(decode(stored), qparams_from(qparams.values, c), qparams.flags[FLUSHING, 0], op)
        store_part(y, i, encode(v, stored), end - i)
        c = _next_column(c, row)


@inlined
def _next_column(c, row):
    """Column VECTOR_SIZE elements further, wrapped at the row's end; a modulo would cost as much as all the rest."""
    c += VECTOR_SIZE
    while c >= row:
        c -= row
    return c


@inlined
def _store(y, at, v, count, nontemporal):
    """Write the first `count` elements of a vector; non-temporal stores write all of it."""
    if nontemporal is None:
        store_part(y, at, v, count)
    else:
        store_nontemporal(y, at, v)


# ------------------------------------------------------------------ with error sums


@inlined
def quantize_and_sum(loop, elements, steps, qparams, sums):
    """`quantize` under each setting, and fill `sums` (chunks, settings, SUM_COLUMNS); the first element begins chunk 0.

    `qparams` have the settings as their first dimension. With `keep` there is one setting, and `y` its output.
    A chunk with a non-finite ABS_ERROR must be quantized again by `quantize`, for its NaN, and summed again, see
    `cpu/dispatch.py`. The input extremes are left unset.
    """
    base, start, stop = elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        here = Elements(base, first, smaller(first + CHUNK_ELEMENTS, stop))
        _sum_chunk(loop, here, steps, qparams, sums[chunk])


@inlined
def _sum_chunk(loop, elements, steps, qparams, sums):
    """Fill `sums` (settings, SUM_COLUMNS)."""
    base, first, last = elements
    terms = loop.terms
    begin_chunk(terms)
    _add_runs(loop, elements, steps, qparams, qparams.columns)
    for setting in range(sums.shape[0]):
        row = sums[setting]
        finish_chunk(loop.x, first - base, last - first, terms, setting, row)
        row[CLIPPED] = 0
        if qparams.clipping[setting]:
            values, flags = qparams.values[setting], qparams.flags[setting]
            row[CLIPPED] = _count_outside(loop.x, elements, steps, values, flags, qparams.columns)


@inlined
def _add_runs(loop, elements, steps, qparams, columns):
    """Add a chunk: run after run, under each setting while the L1 cache holds it."""
    base, first, last = elements
    cursor = run_at(first, steps) if columns is None else (first % steps.row, 0, 0)
    behind = cursor
    for begin in range(first, last, RUN):
        run = Elements(base, begin, smaller(begin + RUN, last))
        for setting in range(qparams.values.shape[0]):
            values, flags = qparams.values[setting], qparams.flags[setting]
            for shift in range(0, VECTOR_SIZE, width()):
                if columns is None:
                    sums, behind = _sum_run(loop, run, cursor, steps, values, flags, setting, shift)
                else:
                    sums, behind = _sum_run_of_columns(loop, run, cursor, steps, values, flags, setting, shift)
                add_run(sums, loop.terms, setting, shift)
        cursor = behind


@inlined
def _sum_run(loop, elements, cursor, steps, values, flags, setting, shift):
    """Return the sums of the lanes [shift, shift + width()) of a run, and `run_at` its end.

    A vector in which slices meet is worked on once for each of them.
    """
    base, begin, stop = elements
    s, end, left = cursor
    origins, sums, i = (base, begin), no_sums(loop.terms), begin
    while i < stop:
        to = smaller(end, stop)
        qparams, flushing = qparams_of(values, s), flags[FLUSHING, s]
        k = i - (i - begin) % VECTOR_SIZE
        while k < to:
            if i <= k and k + VECTOR_SIZE <= to:
                while k + VECTOR_SIZE <= to:
                    sums = _sum_vector(loop, origins, k + shift, None, qparams, flushing, setting, sums)
                    k += VECTOR_SIZE
            else:
                lanes = first_some(to - k - shift) ^ first_some(i - k - shift)
                sums = _sum_vector(loop, origins, k + shift, lanes, qparams, flushing, setting, sums)
                k += VECTOR_SIZE
        i = to
        if i == end:
            s, end, left = run_after(s, end, steps, left)
    return sums, (s, end, left)


@inlined
def _sum_run_of_columns(loop, elements, cursor, steps, values, flags, setting, shift):
    """`_sum_run` for a column per element of a row; the first of `cursor` is the column."""
    base, begin, stop = elements
    origins, sums, c = (base, begin), no_sums(loop.terms), cursor[0]
    flushing = flags[FLUSHING, 0]
    for k in range(begin, stop, VECTOR_SIZE):
        qparams = _some_of_columns(values, c + shift)
        if k + VECTOR_SIZE <= stop:
            sums = _sum_vector(loop, origins, k + shift, None, qparams, flushing, setting, sums)
        else:
            lanes = first_some(stop - k - shift)
            sums = _sum_vector(loop, origins, k + shift, lanes, qparams, flushing, setting, sums)
        c = _next_column(c, steps.row)
    return sums, (c, 0, 0)


@inlined
def _some_of_columns(values, c):
    """Qparams of the columns [c, c + width())."""
    capacity = values.shape[1]
    lo, hi = load_some(values, MIN_RANGE * capacity + c), load_some(values, MAX_RANGE * capacity + c)
    return lo, hi, load_some(values, SCALE * capacity + c), load_some(values, INVERSE_SCALE * capacity + c)


@inlined
def _sum_vector(loop, origins, k, lanes, qparams, flushing, setting, sums):
    """Quantize width() elements from `k` on, or some `lanes` of them, and add them to the sums of a run.

    `origins`: the elements that x[0] and the run begin with. Outputs are written if they are kept; a NaN among them is
    not canonical yet.
    """
    x, terms = loop.x, loop.terms
    at = k - origins[0]
    stored = _stored(x, at, lanes)  # read where it is decoded; elsewhere its type counts
    v = _input(x, at, k - origins[1], lanes, setting, terms.inputs, loop.ahead)
    w = number_pattern(_fake_quantized(v, qparams, flushing, loop.op), stored)
    if loop.keep:
        _keep(loop.y, at, narrow(w, stored), lanes, loop.nontemporal)
    w = value_of_pattern(w, stored)
    return add_elements(v, w if lanes is None else select(lanes, w, 0), terms, setting, sums)


@inlined
def _stored(x, at, lanes):
    """Load width() elements, or some `lanes` of them: without optimization what nobody needs is read, too."""
    if lanes is None:
        return load_some(x, at)
    return load_where(x, at, lanes, 0)


@inlined
def _input(x, at, k, lanes, setting, inputs, ahead):
    """Decode width() elements, or some `lanes` of them; whole vectors of 16-bit elements once, for all settings."""
    if lanes is not None:
        return decode(_stored(x, at, lanes))
    if inputs is not None and setting > 0:
        return load_some(inputs, k)
    if setting == 0:
        prefetch(x, at + ahead)
    v = decode(load_some(x, at))
    if inputs is not None and inputs.size:
        store(inputs, k, v)
    return v


@inlined
def _keep(y, at, v, lanes, nontemporal):
    """Write an output."""
    if lanes is not None:
        store_where(y, at, v, lanes)
    elif nontemporal is None:
        store(y, at, v)
    else:
        store_nontemporal(y, at, v)


@inlined
def _count_outside(x, elements, steps, values, flags, columns):
    """Number of elements outside the range of their slice."""
    if columns is None:
        return _count_outside_runs(x, elements, steps, values, flags)
    return _count_outside_columns(x, elements, steps.row, values)


@inlined
def _count_outside_runs(x, elements, steps, values, flags):
    outside = 0
    base, i, stop = elements
    s, run_end, left = run_at(i, steps)
    while i < stop:
        end = smaller(run_end, stop)
        if flags[CLIPPING, s]:
            lo, hi = values[MIN_RANGE, s], values[MAX_RANGE, s]
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
def fake_quantize_and_sum(loop, tensors, measuring, sums, found):
    """Measure once, quantize and sum under each setting: many tensors, or a block, each whole slices of one run.

    `tensors` (tensors, 8) are `Elements` and `Steps`. `sums` (chunks, settings, SUM_COLUMNS) has the chunks of one
    after another, as in `quantize_and_sum`; `op` does not clamp.
    """
    chunk = 0
    for t in range(tensors.shape[0]):
        elements = Elements(tensors[t, 0], tensors[t, 1], tensors[t, 2])
        steps = Steps(tensors[t, 3], tensors[t, 4], tensors[t, 5], tensors[t, 6], tensors[t, 7])
        end = chunk + (elements.stop - elements.start + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS
        _measure_and_sum(loop, elements, steps, measuring, sums[chunk:end])
        chunk = end
        lo, hi = measuring.ranges[0, 0], measuring.ranges[1, 0]
        for s in range(run_at(elements.stop - 1, steps)[0] + 1):
            lo, hi = min(lo, measuring.ranges[0, s]), max(hi, measuring.ranges[1, s])
            found.num_degenerate[t] += measuring.degenerate[0, s]
        found.extremes[t, 0], found.extremes[t, 1] = lo, hi


@inlined
def _measure_and_sum(loop, elements, steps, measuring, sums):
    order_keys, ranges, op = measuring.order_keys, measuring.ranges, loop.op
    base, start, stop = elements
    known = 0  # slices with a range: those of a chunk get it just before, while the cache still holds their elements
    for chunk in range(sums.shape[0]):
        first = start + chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, stop)
        begin, end = run_at(first, steps)[0], run_at(last - 1, steps)[0] + 1
        needed = (end + VECTOR_SIZE - 1) // VECTOR_SIZE * VECTOR_SIZE
        if needed > known:
            for s in range(known, needed):
                order_keys[0, s], order_keys[1, s] = measuring.nothing_lo, measuring.nothing_hi
            new = Elements(base, start_of(known, steps), start_of(needed, steps))
            measure(measuring.bits, new, steps, measuring, order_keys, measuring.short_runs)
            decode_order_keys(order_keys, loop.x, known, needed, ranges)
            known = needed
        for setting in range(sums.shape[1]):
            qparams = Qparams(measuring.values[setting], measuring.flags[setting], None, measuring.clipping)
            codes = Codes(measuring.q_min[setting], measuring.q_max[setting])
            clips = make_qparams(ranges, begin, end, codes, False, op.compute_type, qparams)
            measuring.clipping[setting] = clips > 0
            for s in range(begin, end):
                measuring.degenerate[setting, s] = qparams.flags[DEGENERATE, s - begin]
        there = Steps(steps.inner, steps.row, steps.advance, steps.first_slice + begin, steps.end)
        here = Qparams(measuring.values, measuring.flags, None, measuring.clipping)
        _sum_chunk(loop, Elements(base, first, last), there, here, sums[chunk])


@inlined
def measure(bits, elements, steps, limits, order_keys, short_runs):
    """Widen `order_keys` (2, slices) by whole slices of one run each."""
    if short_runs is None:
        measure_range(bits, elements, steps, limits, order_keys)
    else:
        measure_short_runs(bits, elements, steps, limits, order_keys)


@inlined
def fake_quantize_slices(x, y, first, last, steps, measuring, op, nontemporal):
    """Measure and quantize slices of one run each, a batch at a time: the data crosses the memory bus once.

    The scratch buffers of `measuring` are (rows, slices of a batch).
    """
    order_keys, batch = measuring.order_keys, measuring.values.shape[2]
    qparams = Qparams(measuring.values[0], measuring.flags[0], None, measuring.clipping)
    codes = Codes(measuring.q_min[0], measuring.q_max[0])
    while first < last:  # a range with this step would raise where it is 0
        end = smaller(first + batch, last)
        here = Elements(0, start_of(first, steps), start_of(end, steps))
        there = Steps(steps.inner, steps.row, steps.advance, first, steps.end)
        order_keys[0], order_keys[1] = measuring.nothing_lo, measuring.nothing_hi
        measure(measuring.bits, here, there, measuring, order_keys, measuring.short_runs)
        decode_order_keys(order_keys, x, 0, batch, measuring.ranges)
        make_qparams(measuring.ranges, 0, end - first, codes, False, op.compute_type, qparams)
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
