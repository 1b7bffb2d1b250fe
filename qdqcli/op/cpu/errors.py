"""CPU error sums of two arrays, input `x` and output `y`, without qparams or layouts.

`x` and `y` hold stored elements, each of its own dtype (see `value.py`); x[0] and y[0] begin a chunk. The sums and
their order of addition are defined in `docs/exactness.md`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.columns import (
    ABS_ERROR,
    ERROR,
    MAX_ABS_ERROR,
    NONFINITE,
    NONFINITE_OUTPUT,
    NUM_SUMS,
    SQ_ERROR,
    SQ_INPUT,
    SQ_OUTPUT,
    SUM_COLUMNS,
    ZEROED,
    empty_sums,
)
from qdqcli.op.jit.cache import kernel
from qdqcli.op.jit.register import always_inlined, inlined
from qdqcli.op.jit.vector import (
    VECTOR_SIZE,
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
from qdqcli.op.params import floats_of
from qdqcli.op.primitives import widen_to_double
from qdqcli.op.value import StaticBool, decode
from qdqcli.stats.sums import CHUNK_ELEMENTS

RUN = 16 * VECTOR_SIZE
"""Elements whose terms are added in their own type before they are widened."""
PIECE = 16 * RUN
"""Elements that are quantized, then summed while the L1 cache holds them and prefetches the next."""
_SMALL = 2.0**-100
"""Sums of squares below it may have lost digits to float32 subnormals."""


class Terms(NamedTuple):
    """Type of the terms, and accumulators of a chunk."""

    zero: np.floating[Any]
    """Zero of that type."""
    marking: StaticBool
    """Extreme chunks are marked: float32 may not hold their terms."""
    totals: NDArray[np.float64]
    """(SUM_COLUMNS * VECTOR_SIZE,): the lanes of each column."""


def terms_of(x: NDArray[Any], y: NDArray[Any], *, extreme: bool = False) -> Terms:
    """Return terms in float32, or in float64 for float64 elements and `extreme` chunks."""
    totals = np.empty(SUM_COLUMNS * VECTOR_SIZE)
    if extreme or x.dtype == np.float64 or y.dtype == np.float64:
        return Terms(np.float64(0), None, totals)
    return Terms(np.float32(0), True, totals)


# ------------------------------------------------------------------ compiled


@inlined
def begin_chunk(terms):
    """Reset the accumulators."""
    for k in range(0, SUM_COLUMNS * VECTOR_SIZE, VECTOR_SIZE):
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
        prefetch(x, k + PIECE)
        stored = load_some(y, k)
        if nontemporal is not None:
            store_nontemporal(out, k, stored)
        sums = _add(load_some(x, k), stored, sums)
    if whole < begin + size:
        k = whole + shift
        left = begin + size - k
        sums = _add(load_first(x, k, left), load_first(y, k, left), sums)
    error, abs_error, sq_error, sq_input, sq_output, peak, zeroed = sums
    _widen(terms.totals, ERROR * VECTOR_SIZE + shift, error)
    _widen(terms.totals, ABS_ERROR * VECTOR_SIZE + shift, abs_error)
    _widen(terms.totals, SQ_ERROR * VECTOR_SIZE + shift, sq_error)
    _widen(terms.totals, SQ_INPUT * VECTOR_SIZE + shift, sq_input)
    _widen(terms.totals, SQ_OUTPUT * VECTOR_SIZE + shift, sq_output)
    _widen(terms.totals, ZEROED * VECTOR_SIZE + shift, zeroed)
    k = MAX_ABS_ERROR * VECTOR_SIZE + shift
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
    for k in range(NUM_SUMS):
        row[k] = pairwise_sum(load(terms.totals, k * VECTOR_SIZE))
    row[MAX_ABS_ERROR] = greatest(load(terms.totals, MAX_ABS_ERROR * VECTOR_SIZE))
    row[ZEROED] = pairwise_sum(load(terms.totals, ZEROED * VECTOR_SIZE))
    if terms.marking is not None and is_extreme(row) and (row[ABS_ERROR] > 0 or not _is_zero(x, i, n)):
        row[ABS_ERROR] = np.nan


@inlined
def is_extreme(row):
    """Tell whether float32 terms may have overflowed or lost digits, or the cosine's xx + yy - ee cancels."""
    size, ee, xx, yy = row[ABS_ERROR], row[SQ_ERROR], row[SQ_INPUT], row[SQ_OUTPUT]
    if not (size < np.inf and ee < np.inf and xx < np.inf and yy < np.inf):
        return True
    if xx < _SMALL or (ee < _SMALL and row[MAX_ABS_ERROR] > 0) or (yy < _SMALL and ee != xx):
        return True
    return yy > 0 and xx + yy - ee < (xx if xx > yy else yy) / 128


@inlined
def _is_zero(x, i, n):
    """Tell whether all elements are zeros, for which the sums are exact."""
    for k in range(i, i + n, VECTOR_SIZE):  # noqa: SIM110 - compiled
        if any_true(decode(load_part(x, k, i + n - k)) != 0.0):
            return False
    return True


@kernel()
def _sum_chunks(x, y, terms, sums):
    """Fill `sums` (chunks, SUM_COLUMNS)."""
    for chunk in range(sums.shape[0]):
        first = chunk * CHUNK_ELEMENTS
        size = smaller(CHUNK_ELEMENTS, x.size - first)
        begin_chunk(terms)
        add_runs(x[first:], y[first:], size, terms, None, y)
        finish_chunk(x, first, size, terms, sums[chunk])


# ------------------------------------------------------------------ called from Python


def error_sums(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Return the error sums (chunks, SUM_COLUMNS) of y - x, without the extremes of x and the clip counts."""
    sums = empty_sums(-(-len(x) // CHUNK_ELEMENTS))
    _sum_chunks(x, y, terms_of(x, y), sums)
    for chunk in np.flatnonzero(~np.isfinite(sums[:, ABS_ERROR])):
        part = slice(chunk * CHUNK_ELEMENTS, (chunk + 1) * CHUNK_ELEMENTS)
        look_closer(x[part], y[part], sums[chunk])
    return sums


def look_closer(x: NDArray[Any], y: NDArray[Any], row: NDArray[np.float64]) -> None:
    """Sum a chunk again into its `row`, without non-finite elements, and in float64 if it is extreme."""
    finite_x, finite_y = np.isfinite(floats_of(x)), np.isfinite(floats_of(y))
    measured = finite_x & finite_y
    row[NONFINITE] = x.size - np.count_nonzero(finite_x)
    row[NONFINITE_OUTPUT] = np.count_nonzero(finite_x & ~finite_y)
    x, y = np.where(measured, x, x.dtype.type(0)), np.where(measured, y, y.dtype.type(0))
    for extreme in (False, True):
        _sum_chunks(x, y, terms_of(x, y, extreme=extreme), row[None])
        if not np.isnan(row[ABS_ERROR]):
            break
