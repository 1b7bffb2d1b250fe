"""CPU error sums of two arrays, input `x` and output `y`, without qparams or layouts.

`x` and `y` hold stored elements, each of its own dtype (see `value.py`); x[0] and y[0] begin a chunk. The sums and
their order of addition are defined in `docs/exactness.md`.
"""

import numpy as np

from qdqcli.op import columns
from qdqcli.op.arguments import RUN
from qdqcli.op.jit.kernel import VECTOR_SIZE
from qdqcli.op.jit.register import always_inlined, inlined
from qdqcli.op.jit.vector import (
    any_true,
    as_wide,
    broadcast_some,
    greatest,
    larger,
    load,
    load_first,
    load_part,
    load_some,
    minus_mask,
    no_count,
    pairwise_sum,
    prefetch,
    smaller,
    store,
    store_nontemporal,
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
    for k in range(0, columns.SUM_COLUMNS * VECTOR_SIZE, VECTOR_SIZE):
        store(terms.totals, k, 0.0)


@inlined
def add_runs(x, y, n, terms, nontemporal, out):
    """Add the first `n` elements: runs of a chunk, of which only the last may be shorter.

    With `nontemporal`, whole vectors of `y` are also written to `out`, by non-temporal stores: these wait for memory
    while sums are added.
    """
    for begin in range(0, n, RUN):
        for shift in range(0, VECTOR_SIZE, width()):
            _add_run(x, y, begin, smaller(RUN, n - begin), shift, terms, nontemporal, out)


@always_inlined
def _add_run(x, y, begin, size, shift, terms, nontemporal, out):
    """Add the lanes [shift, shift + width()) of a run of `size` elements."""
    zero = broadcast_some(terms.zero)
    sums = (zero, zero, zero, zero, zero, zero, no_count())
    whole = begin + size // VECTOR_SIZE * VECTOR_SIZE
    for k in range(begin + shift, whole, VECTOR_SIZE):
        prefetch(x, k + terms.ahead)
        stored = load_some(y, k)
        if nontemporal is not None:
            store_nontemporal(out, k, stored)
        sums = _add(load_some(x, k), stored, sums)
    if whole < begin + size:
        k = whole + shift
        left = begin + size - k
        sums = _add(load_first(x, k, left), load_first(y, k, left), sums)
    error, abs_error, sq_error, sq_input, sq_output, peak, zeroed = sums
    _widen(terms.totals, columns.ERROR * VECTOR_SIZE + shift, error)
    _widen(terms.totals, columns.ABS_ERROR * VECTOR_SIZE + shift, abs_error)
    _widen(terms.totals, columns.SQ_ERROR * VECTOR_SIZE + shift, sq_error)
    _widen(terms.totals, columns.SQ_INPUT * VECTOR_SIZE + shift, sq_input)
    _widen(terms.totals, columns.SQ_OUTPUT * VECTOR_SIZE + shift, sq_output)
    _widen(terms.totals, columns.ZEROED * VECTOR_SIZE + shift, zeroed)
    k = columns.MAX_ABS_ERROR * VECTOR_SIZE + shift
    store(terms.totals, k, larger(widen_to_double(peak), load_some(terms.totals, k)))


@always_inlined
def _add(x, y, sums):
    error, abs_error, sq_error, sq_input, sq_output, peak, zeroed = sums
    v, w = as_wide(decode(x), error), as_wide(decode(y), error)
    e = w - v
    size = abs(e)
    return (
        error + e,
        abs_error + size,
        sq_error + e * e,
        sq_input + v * v,
        sq_output + w * w,
        larger(size, peak),
        minus_mask(zeroed, (w == 0.0) & (v != 0.0)),
    )


@always_inlined
def _widen(totals, k, values):
    store(totals, k, load_some(totals, k) + widen_to_double(values))


@inlined
def finish_chunk(x, i, n, terms, row):
    """Reduce the accumulators into the `row` (SUM_COLUMNS,) of the chunk x[i : i + n].

    ABS_ERROR is not finite where `look_closer` must sum the chunk again.
    """
    for k in range(columns.NUM_SUMS):
        row[k] = pairwise_sum(load(terms.totals, k * VECTOR_SIZE))
    row[columns.MAX_ABS_ERROR] = greatest(load(terms.totals, columns.MAX_ABS_ERROR * VECTOR_SIZE))
    row[columns.ZEROED] = pairwise_sum(load(terms.totals, columns.ZEROED * VECTOR_SIZE))
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
        size = smaller(CHUNK_ELEMENTS, x.size - first)
        begin_chunk(terms)
        add_runs(x[first:], y[first:], size, terms, None, y)
        finish_chunk(x, first, size, terms, sums[chunk])
