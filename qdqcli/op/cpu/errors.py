"""CPU error sums of two arrays, input `x` and output `y`, without qparams or layouts.

`x` and `y` hold stored elements, each of its own dtype (see `value.py`); x[0] and y[0] begin a chunk. The sums and
their order of addition are defined in `docs/exactness.md`.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.arguments import AHEAD, RUN
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import inlined
from qdqcli.op.jit.vector import (
    add_where,
    any_true,
    as_wide,
    broadcast_some,
    greatest,
    larger,
    load,
    load_first,
    load_part,
    load_some,
    pairwise_sum,
    prefetch,
    smaller,
    store,
    width,
)
from qdqcli.op.primitives import widen_to_double
from qdqcli.op.value import decode
from qdqcli.stats.sums import CHUNK_ELEMENTS

_SMALL = 2.0**-100
"""Sums of squares below it may have lost digits to float32 subnormals."""


@inlined
def begin_chunk(terms):
    """Reset the accumulators."""
    for k in range(0, terms.totals.size, VECTOR_SIZE):
        store(terms.totals, k, 0.0)
    for k in range(0, terms.peaks.size, VECTOR_SIZE):
        store(terms.peaks, k, terms.zero)
        store(terms.zeroed, k, 0)


@inlined
def no_sums(terms):
    """Sums of a run to which nothing was added."""
    zero = broadcast_some(terms.zero)
    return zero, zero, zero, zero, zero, zero, broadcast_some(np.int32(0))


@inlined
def add_elements(v, w, terms, setting, sums):
    """Return the sums of a run with width() more inputs and outputs; only the first setting adds inputs."""
    error, abs_error, sq_error, sq_input, sq_output, peak, zeroed = sums
    v, w = as_wide(v, error), as_wide(w, error)
    e = w - v
    size = abs(e)
    return (
        error + e,
        abs_error + size,
        sq_error + e * e,
        sq_input + v * v if setting == 0 else sq_input,
        sq_output + w * w,
        larger(size, peak),
        add_where((w == 0.0) & (v != 0.0), zeroed, broadcast_some(terms.one)),
    )


@inlined
def add_run(sums, terms, setting, shift):
    """Add the sums of a run, of the lanes [shift, shift + width()), to the accumulators of a setting."""
    error, abs_error, sq_error, sq_input, sq_output, peak, zeroed = sums
    totals, begin = terms.totals, setting * columns.NUM_SUMS * VECTOR_SIZE + shift
    if setting == 0:
        _widen(totals, begin + columns.SQ_INPUT * VECTOR_SIZE, sq_input)
    _widen(totals, begin + columns.ERROR * VECTOR_SIZE, error)
    _widen(totals, begin + columns.ABS_ERROR * VECTOR_SIZE, abs_error)
    _widen(totals, begin + columns.SQ_ERROR * VECTOR_SIZE, sq_error)
    _widen(totals, begin + columns.SQ_OUTPUT * VECTOR_SIZE, sq_output)
    k = setting * VECTOR_SIZE + shift
    store(terms.peaks, k, larger(peak, load_some(terms.peaks, k)))
    store(terms.zeroed, k, zeroed + load_some(terms.zeroed, k))


@inlined
def _widen(totals, k, values):
    store(totals, k, load_some(totals, k) + widen_to_double(values))


@inlined
def finish_chunk(x, i, n, terms, setting, row):
    """Reduce the accumulators of a setting into the `row` (SUM_COLUMNS,) of the chunk x[i : i + n].

    ABS_ERROR is not finite where the chunk must be summed again, see `cpu/dispatch.py`.
    """
    totals, begin = terms.totals, setting * columns.NUM_SUMS * VECTOR_SIZE
    for k in range(columns.NUM_SUMS):
        row[k] = pairwise_sum(load(totals, begin + k * VECTOR_SIZE))
    row[columns.SQ_INPUT] = pairwise_sum(load(totals, columns.SQ_INPUT * VECTOR_SIZE))
    row[columns.MAX_ABS_ERROR] = greatest(load(terms.peaks, setting * VECTOR_SIZE))
    row[columns.ZEROED] = pairwise_sum(load(terms.zeroed, setting * VECTOR_SIZE))
    if terms.marking is not None and is_extreme(row) and (row[columns.ABS_ERROR] > 0 or not _is_zero(x, i, n)):
        row[columns.ABS_ERROR] = np.nan


@inlined
def is_extreme(row):
    """Tell whether float32 terms may have overflowed or lost digits, or the cosine's xx + yy - ee cancels."""
    size, ee, xx, yy = row[columns.ABS_ERROR], row[columns.SQ_ERROR], row[columns.SQ_INPUT], row[columns.SQ_OUTPUT]
    if not (size < np.inf and ee < np.inf and xx < np.inf and yy < np.inf):
        return True
    if xx < _SMALL or (ee < _SMALL and row[columns.MAX_ABS_ERROR] > 0) or (yy < _SMALL and ee != xx):
        return True
    return yy > 0 and xx + yy - ee < (xx if xx > yy else yy) / 128


@inlined
def _is_zero(x, i, n):
    """Tell whether all elements are zeros, for which the sums are exact."""
    for k in range(i, i + n, VECTOR_SIZE):  # noqa: SIM110 - compiled
        if any_true(decode(load_part(x, k, i + n - k)) != 0.0):
            return False
    return True


def sum_chunks(x, y, terms, sums):
    """Fill `sums` (chunks, SUM_COLUMNS)."""
    for chunk in range(sums.shape[0]):
        first = chunk * CHUNK_ELEMENTS
        last = smaller(first + CHUNK_ELEMENTS, x.size)
        begin_chunk(terms)
        for begin in range(first, last, RUN):
            end = smaller(begin + RUN, last)
            for shift in range(0, VECTOR_SIZE, width()):
                sums_of_run = no_sums(terms)
                for k in range(begin + shift, end, VECTOR_SIZE):
                    prefetch(x, k + AHEAD)
                    v, w = decode(_load(x, k, end)), decode(_load(y, k, end))
                    sums_of_run = add_elements(v, w, terms, 0, sums_of_run)
                add_run(sums_of_run, terms, 0, shift)
        finish_chunk(x, first, last - first, terms, 0, sums[chunk])


@inlined
def _load(x, k, end):
    """Load width() elements; those from `end` on are zeros."""
    if k + width() <= end:
        return load_some(x, k)
    return load_first(x, k, end - k)
