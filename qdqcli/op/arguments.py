"""Named tuples that kernels take beside those of `layout.py` and `params.py`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.columns import SUM_COLUMNS
from qdqcli.op.jit.kernel import VECTOR_SIZE, StaticBool
from qdqcli.op.params import Codes, Floats, OrderKeys, Stored

RUN = 16 * VECTOR_SIZE
"""Elements whose terms are added in their own type before they are widened."""
PIECE = 16 * RUN
"""Elements that are quantized, then summed while the L1 cache holds them and prefetches the next."""
SHORT_PIECE_BYTES = 4 << 10
"""Piece of a tensor read from memory: with PIECE, x, y and the next x of float32 would fill an L1 cache of 32 KiB."""
NUM_CANDIDATES = 100
"""Scaled ranges that the search of a range tries."""


class Terms(NamedTuple):
    """Type of the terms, and accumulators of a chunk."""

    zero: np.floating[Any]
    """Zero of that type."""
    marking: StaticBool
    """Extreme chunks are marked: float32 may not hold their terms."""
    totals: NDArray[np.float64]
    """(SUM_COLUMNS * VECTOR_SIZE,): the lanes of each column."""
    ahead: int
    """Elements of x that are prefetched."""


def terms_of(x: Stored, y: Stored, *, extreme: bool = False, ahead: int = PIECE) -> Terms:
    """Return terms in float32, or in float64 for float64 elements and `extreme` chunks."""
    totals = np.empty(SUM_COLUMNS * VECTOR_SIZE)
    if extreme or x.dtype == np.float64 or y.dtype == np.float64:
        return Terms(np.float64(0), None, totals, ahead)
    return Terms(np.float32(0), True, totals, ahead)


class Summing(NamedTuple):
    """How outputs are kept and summed."""

    keep: bool
    """False: nothing is written to `y`."""
    nontemporal: StaticBool
    """True: `y` is written by non-temporal stores; it has the alignment of `base`, modulo VECTOR_SIZE elements."""
    piece: Stored
    """Scratch buffer for the outputs of a piece, whole runs."""
    terms: Terms


class Measuring(NamedTuple):
    """How slices are measured, and scratch buffers for them; kernels also take it for `OrderKeyLimits` and `Codes`."""

    bits: Stored
    """Elements as integers."""
    infinity: Any
    nothing_lo: Any
    nothing_hi: Any
    q_min: Any
    q_max: Any
    short_runs: StaticBool
    """True for slices as `measure_short_runs` takes them."""
    order_keys: OrderKeys
    ranges: Floats
    values: Floats
    flags: NDArray[np.bool_]


class Batch(NamedTuple):
    """Results for each tensor of a batch."""

    sums: NDArray[np.float64]
    """(tensors, SUM_COLUMNS)."""
    num_degenerate: NDArray[np.int64]
    is_done: NDArray[np.bool_]


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
    bounds: Floats
    """(candidates,)."""
    extremes: Floats
    """(2, VECTOR_SIZE)."""
