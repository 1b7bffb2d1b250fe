"""Named tuples that kernels take beside those of `layout.py` and `params.py`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.jit.kernel import VECTOR_SIZE, StaticBool
from qdqcli.op.params import Codes, Floats, Op, OrderKeys, Stored

RUN = 16 * VECTOR_SIZE
"""Elements whose terms are added in their own type before they are widened."""
AHEAD = 16 * RUN
"""Distance at which the input is prefetched; where a chunk is measured before it is summed, the distance is a chunk."""
NUM_CANDIDATES = 100
"""Scaled ranges that the search of a range tries."""


class Terms(NamedTuple):
    """Type of the terms, and accumulators of a chunk."""

    zero: np.floating
    """Zero of that type."""
    marking: StaticBool
    """Extreme chunks are marked: float32 may not hold their terms."""
    totals: NDArray[np.float64]
    """(settings * NUM_SUMS * VECTOR_SIZE,): the lanes of each sum; SQ_INPUT is that of the first setting."""
    peaks: Floats
    """(settings * VECTOR_SIZE,): the lanes of the largest error."""
    zeroed: NDArray[np.int32]
    """(settings * VECTOR_SIZE,): the lanes of the number of elements that became 0."""
    inputs: Floats | None
    """(RUN,): the elements of a run, decoded under the first setting for the others; (0,) where there are no others.

    None for elements that need no decoding.
    """
    one: np.int32 = np.int32(1)
    """1, which the compiler does not know."""


class Loop(NamedTuple):
    """Arrays, op and sums of a loop that measures errors."""

    x: Stored
    y: Stored
    op: Op
    keep: bool
    """False: nothing is written to `y`."""
    nontemporal: StaticBool
    """True: `y` is written by non-temporal stores; it has the alignment of `base`, modulo VECTOR_SIZE elements."""
    terms: Terms
    ahead: int
    """Elements between the one that is summed and the one that is prefetched for it."""


class SliceMeasuring(NamedTuple):
    """How slices are measured, and scratch buffers for them; kernels also take it for `OrderKeyLimits`."""

    bits: Stored
    """Elements as integers."""
    infinity: np.signedinteger
    nothing_lo: np.signedinteger
    nothing_hi: np.signedinteger
    q_min: Floats
    q_max: Floats
    """(settings,): the lowest and the highest code."""
    short_runs: StaticBool
    """True for slices as `measure_short_runs` takes them."""
    order_keys: OrderKeys
    """(2, slices)."""
    ranges: Floats
    """(2, slices)."""
    values: Floats
    """(settings, QPARAM_ROWS, slices of a chunk)."""
    flags: NDArray[np.bool_]
    """(settings, FLAG_ROWS, slices of a chunk)."""
    clipping: NDArray[np.bool_]
    """(settings,)."""
    degenerate: NDArray[np.bool_]
    """(settings, slices)."""


class Found(NamedTuple):
    """Results for each tensor of a batch, beside its sums."""

    extremes: Floats
    """(tensors, 2): union of the slice ranges."""
    num_degenerate: NDArray[np.int64]


class PackedCodes(NamedTuple):
    """Stored codes and the values that they stand for."""

    stored: NDArray[np.uint8]
    """(rows, bytes)."""
    bits: int
    per_word: int
    """Codes in a word of 32 bits; 0: codes are dense."""
    values: NDArray[np.float32]
    """(2**bits,)."""


class Candidates(NamedTuple):
    """Candidates of any slice."""

    fractions: Floats
    """(candidates,), whole vectors, of which NUM_CANDIDATES count."""
    codes: Codes


class SearchScratch(NamedTuple):
    """Scratch buffers: for the elements of a slice or a chunk, whole vectors, and for candidates."""

    v: Floats
    """Elements as the op takes them."""
    a: NDArray[np.float64]
    """Elements as they are."""
    qparams: Floats
    """(QPARAM_ROWS, candidates)."""
    errors: NDArray[np.float64]
    """(candidates,)."""
    extremes: Floats
    """(2, VECTOR_SIZE)."""
