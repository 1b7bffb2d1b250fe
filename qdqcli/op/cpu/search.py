"""CPU loops for the range search of a slice: squared error of candidates, and the candidate with the least.

A candidate is the range of the slice's finite elements, both ends times a fraction, passed to the op. Non-finite
elements add nothing. A candidate with a non-finite output has an infinite or NaN error and never wins.

Order of addition: in a slice, or in a chunk of a long one, element i is added in lane i % 16, each lane in float64, one
element after another; the lanes are then reduced pairwise, see `cpu/errors.py`. Squares are not negative, so partial
sums never exceed the sum: a candidate is dropped as soon as its partial sum exceeds the least error so far, or before
it starts if the error of its clipped elements does.
"""

import numpy as np

from qdqcli.op.arguments import NUM_CANDIDATES
from qdqcli.op.cpu.ranges import qparams_from, qparams_of, run_at, store_qparams
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    any_true,
    bits_of_mask,
    broadcast,
    larger,
    least,
    load,
    load_part,
    lowest_bit,
    mask_of_first,
    pairwise_sum,
    smaller,
    store,
)
from qdqcli.op.primitives import constant, select, widen_to_double
from qdqcli.op.value import (
    clamp,
    decode,
    encode,
    fake_quantize,
    flush,
    max_finite,
    qparams_of_range,
    round_to,
    stored_value,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

_STRIDE = 64
"""Elements after which a candidate may be dropped."""
_FLOAT32_RUN = 32
"""Squared differences that are added in float32."""
_SLACK = 1 + 2.0**-16
"""Sums in float32 are accurate to 40 roundings of 2^-24."""
_MARGIN = 1 + 2.0**-18
"""Ends of candidates are proportional to their fractions but for fewer roundings of float32 than this."""
_SMALL, _LARGE = 1e-30, 1e38
"""Errors for which float32 is accurate: smaller squares lose digits, and a sum that overflowed is larger."""


@inlined
def _quantized(v, lo, hi, scale, inverse, op):
    """Quantize and dequantize, clamped to the range."""
    return fake_quantize(clamp(v, lo, hi), scale, inverse, op.half_up, op.compute_type)


@inlined
def _decode_run(x, begin, count, compute_type, scratch):
    """Decode x[begin : begin + count] to `scratch`; non-finite elements become zeros.

    The last vector is padded with zeros too: they have no error.
    """
    for i in range(0, count, VECTOR_SIZE):
        stored = load_part(x, begin + i, count - i)
        value = decode(stored)
        value = select((abs(value) <= max_finite(stored)) & mask_of_first(count - i), value, constant(0.0, value))
        store(scratch.a, i, widen_to_double(value))
        store(scratch.v, i, flush(value, compute_type))


@inlined
def make_candidates(lo, hi, candidates, compute_type, first, last, qparams):
    """Fill the columns [first, last) of `qparams` (QPARAM_ROWS, candidates), whole vectors, for the range [lo, hi]."""
    codes = candidates.codes
    for k in range(first, last, VECTOR_SIZE):
        share = load(candidates.fractions, k)
        low = flush(round_to(share * lo, compute_type), compute_type)
        high = flush(round_to(share * hi, compute_type), compute_type)
        store_qparams(qparams, k, qparams_of_range(low, high, codes.q_min, codes.q_max, compute_type))


@inlined
def _squared_error(x, scratch, count, qparams, k, op, limit):
    """Return the error of candidate `k`; infinite once it exceeds `limit`, or for a degenerate scale."""
    lo, hi, scale, inverse = qparams_of(qparams, k)
    if not (abs(scale) < np.inf and abs(inverse) < np.inf):
        return np.inf
    stored = load_part(x, 0, 1)  # its type names the dtype
    total, error = broadcast(0.0), 0.0
    for begin in range(0, count, _STRIDE):
        for i in range(begin, smaller(begin + _STRIDE, count), VECTOR_SIZE):
            y = _quantized(load(scratch.v, i), lo, hi, scale, inverse, op)
            e = widen_to_double(stored_value(y, stored)) - load(scratch.a, i)
            total = total + e * e
        error = pairwise_sum(total)
        if error > limit:
            return np.inf
    return error if error < np.inf else np.inf


@inlined
def _find_extremes(v, count, extremes):
    """Fill `extremes` (2, VECTOR_SIZE) with the largest and the smallest element of each lane."""
    high = low = load(v, 0)
    for i in range(VECTOR_SIZE, count, VECTOR_SIZE):
        high, low = larger(load(v, i), high), smaller(load(v, i), low)
    store(extremes, 0, high)
    store(extremes, VECTOR_SIZE, low)


@inlined
def _bounds(stored, k, qparams, op, extremes):
    """Return lower bounds of the errors of VECTOR_SIZE candidates; in float32 or float64, also of all narrower ones.

    No output is beyond that of an end of the range, and the extremes of all lanes are distinct elements.
    """
    lo, hi, scale, inverse = qparams_from(qparams, k)
    zero, margin = qparams.dtype.type(0), qparams.dtype.type(_MARGIN)
    y_lo = stored_value(fake_quantize(lo, scale, inverse, op.half_up, op.compute_type) * margin, stored)
    y_hi = stored_value(fake_quantize(hi, scale, inverse, op.half_up, op.compute_type) * margin, stored)
    total = broadcast(zero)
    for lane in range(VECTOR_SIZE):
        over, under = larger(extremes[0, lane] - y_hi, zero), larger(y_lo - extremes[1, lane], zero)
        total = total + over * over + under * under
    return total


@inlined
def _sums_in_float32(stored, v, count, k, qparams, op, limit):
    """Return the errors of VECTOR_SIZE candidates, accurate to _SLACK; partial ones once all exceed `limit`."""
    lo, hi, scale, inverse = qparams_from(qparams, k)
    errors = broadcast(0.0)
    for begin in range(0, count, _FLOAT32_RUN):
        total = broadcast(qparams.dtype.type(0))
        for i in range(begin, smaller(begin + _FLOAT32_RUN, count)):
            x = broadcast(v[i])
            e = stored_value(_quantized(x, lo, hi, scale, inverse, op), stored) - x
            total = total + e * e
        errors = errors + widen_to_double(total)
        if not any_true(errors <= limit):
            break
    return select(errors == errors, errors, np.inf)


@inlined
def _search_run(x, scratch, count, lo, hi, candidates, guess, op):
    """Return the candidate with the least error, the last of equals; the last one if no error is finite."""
    qparams, errors, stored = scratch.qparams, scratch.errors, load_part(x, 0, 1)
    is_fine = round_to(qparams.dtype.type(_MARGIN), op.compute_type) > 1.0
    first, lowest = guess // VECTOR_SIZE * VECTOR_SIZE, np.inf
    errors[:] = np.inf
    _find_extremes(scratch.v, count, scratch.extremes)
    for j in range(0, errors.size, VECTOR_SIZE):
        k = first + j if first + j < errors.size else errors.size - VECTOR_SIZE - j
        make_candidates(lo, hi, candidates, op.compute_type, k, k + VECTOR_SIZE, qparams)
        limit = lowest * _SLACK
        if j and not any_true(widen_to_double(_bounds(stored, k, qparams, op, scratch.extremes)) <= limit):
            if k < first and is_fine:
                break
            continue
        found = _sums_in_float32(stored, scratch.v, count, k, qparams, op, limit)
        store(errors, k, found)
        lowest = min(lowest, least(found))
    if _SMALL < lowest < _LARGE:
        return _least_of(x, scratch, count, op, lowest * _SLACK * _SLACK)
    make_candidates(lo, hi, candidates, op.compute_type, 0, errors.size, qparams)
    errors[:] = 0.0
    return _least_of(x, scratch, count, op, 0.0)


@inlined
def _least_of(x, scratch, count, op, limit):
    """Return the candidate with the least error among those whose error in float32 is at most `limit`."""
    best, lowest, is_known = -1, np.inf, False
    for k in range(0, NUM_CANDIDATES, VECTOR_SIZE):
        bits = bits_of_mask((load(scratch.errors, k) <= limit) & mask_of_first(NUM_CANDIDATES - k))
        while bits:
            candidate = k + lowest_bit(bits)
            bits &= bits - 1
            if best >= 0:
                if not is_known:
                    lowest = _squared_error(x, scratch, count, scratch.qparams, best, op, np.inf)
                    is_known = True
                error = _squared_error(x, scratch, count, scratch.qparams, candidate, op, lowest)
                if error > lowest:
                    continue
                lowest = error
            best = candidate
    return best


def search_slices(x, elements, steps, ranges, candidates, op, scratch, best):
    """Fill `best` (slices,) with the best candidate of each of some whole slices of one run each.

    `ranges` (2, slices) are the ranges of their finite elements; the `scratch` buffers hold the longest slice.
    """
    guess = NUM_CANDIDATES - 1
    base, i, stop = elements
    while i < stop:
        s, end, _ = run_at(i, steps)
        end = smaller(end, stop)
        if ranges[0, s] == ranges[1, s] == 0:  # all candidates are equal
            best[s] = NUM_CANDIDATES - 1
            i = end
            continue
        _decode_run(x, i - base, end - i, op.compute_type, scratch)
        # slices are alike: starting at the previous best drops most candidates early
        guess = _search_run(x, scratch, end - i, ranges[0, s], ranges[1, s], candidates, guess, op)
        best[s] = guess
        i = end


def sum_candidates(x, qparams, candidates, op, scratch, limit, spent, errors):
    """Fill `errors` (candidates, chunks) with the errors of each chunk of `x` for some of the qparams.

    `spent` (candidates,) is the error in other parts: a candidate whose total exceeds `limit` is dropped, with infinite
    errors from there on.
    """
    for chunk in range(errors.shape[1]):
        begin = chunk * CHUNK_ELEMENTS
        count = smaller(CHUNK_ELEMENTS, x.size - begin)
        part = x[begin : begin + count]
        _decode_run(part, 0, count, op.compute_type, scratch)
        for j in range(candidates.size):
            errors[j, chunk] = np.inf
            if not spent[j] > limit:
                errors[j, chunk] = _squared_error(part, scratch, count, qparams, candidates[j], op, np.inf)
                spent[j] += errors[j, chunk]


def sum_patterns(counts, occurring, x, qparams, op, lanes, errors):
    """Fill `errors` (candidates,) from the counts of all patterns `x` of a 16-bit float; `occurring`: those not 0.

    Order of addition as in `sum_patterns` of `cpu/slices.py`; `lanes` (VECTOR_SIZE,) is a scratch buffer.
    """
    for k in range(NUM_CANDIDATES):
        lo, hi, scale, inverse = qparams_of(qparams, k)
        lanes[:] = 0.0
        for p in occurring:
            v = decode(x[p])
            if abs(v) <= max_finite(x[p]):
                y = _quantized(flush(v, op.compute_type), lo, hi, scale, inverse, op)
                e = np.float64(decode(encode(y, x[p]))) - np.float64(v)
                lanes[p % VECTOR_SIZE] += np.float64(counts[p]) * (e * e)
        errors[k] = pairwise_sum(load(lanes, 0))
