"""Columns of error sums: one row per chunk or slice, as the kernels fill them."""

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


def empty_sums(rows: int) -> NDArray[np.float64]:
    """Return initial rows (rows, SUM_COLUMNS) of error sums."""
    sums = np.zeros((rows, SUM_COLUMNS))
    sums[:, INPUT_MIN], sums[:, INPUT_MAX] = np.inf, -np.inf
    return sums
