"""Columns of error sums: one row per chunk or slice, as the kernels fill them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

(
    ERROR,
    ABS_ERROR,
    SQ_ERROR,
    SQ_INPUT,
    SQ_OUTPUT,
    MAX_ABS_ERROR,
    INPUT_MIN,
    INPUT_MAX,
    NONFINITE,
    NONFINITE_OUTPUT,
    CLIPPED,
    ZEROED,
) = range(12)
"""Counts are exact in float64."""
SUM_COLUMNS = 12
NUM_SUMS = 5
"""Number of leading columns that are sums of floats."""


def empty_sums(*shape: int) -> NDArray[np.float64]:
    """Return initial rows (*shape, SUM_COLUMNS) of error sums."""
    sums = np.zeros((*shape, SUM_COLUMNS))
    sums[..., INPUT_MIN], sums[..., INPUT_MAX] = np.inf, -np.inf
    return sums


@dataclass(frozen=True, kw_only=True)
class BlockSums:
    """Ranges and error sums of whole slices of one tensor."""

    sums: NDArray[np.float64]
    """(chunks, SUM_COLUMNS), with the extremes of the elements in any row."""
    ranges: NDArray[np.floating]
    """(2, slices)."""
    degenerate: NDArray[np.bool_]
    """(slices,)."""


@dataclass(frozen=True, kw_only=True)
class BatchSums:
    """Error sums of each tensor of a batch."""

    sums: NDArray[np.float64]
    """(tensors, SUM_COLUMNS), each with one chunk; the extremes are the union of the slice ranges."""
    num_degenerate: NDArray[np.int64]
    """(tensors,)."""
    is_done: NDArray[np.bool_]
    """(tensors,): False where elements are not finite or a grid is degenerate."""
