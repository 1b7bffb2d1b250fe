"""Error sums of two arrays in memory, by the loops of `cpu/errors.py`."""

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.arguments import terms_of
from qdqcli.op.columns import ABS_ERROR, NONFINITE, NONFINITE_OUTPUT, empty_sums
from qdqcli.op.params import Stored, floats_of
from qdqcli.stats.sums import CHUNK_ELEMENTS


def error_sums(x: Stored, y: Stored) -> NDArray[np.float64]:
    """Return the error sums (chunks, SUM_COLUMNS) of y - x, without the extremes of x and the clip counts."""
    sums = empty_sums(-(-len(x) // CHUNK_ELEMENTS))
    kernels.sum_chunks(x, y, terms_of(x, y), sums)
    for chunk in np.flatnonzero(~np.isfinite(sums[:, ABS_ERROR])):
        part = slice(chunk * CHUNK_ELEMENTS, (chunk + 1) * CHUNK_ELEMENTS)
        look_closer(x[part], y[part], sums[chunk])
    return sums


def look_closer(x: Stored, y: Stored, row: NDArray[np.float64]) -> None:
    """Sum a chunk again into its `row`, without non-finite elements, and in float64 if it is extreme."""
    finite_x, finite_y = np.isfinite(floats_of(x)), np.isfinite(floats_of(y))
    measured = finite_x & finite_y
    row[NONFINITE] = x.size - np.count_nonzero(finite_x)
    row[NONFINITE_OUTPUT] = np.count_nonzero(finite_x & ~finite_y)
    x, y = np.where(measured, x, x.dtype.type(0)), np.where(measured, y, y.dtype.type(0))
    for extreme in (False, True):
        kernels.sum_chunks(x, y, terms_of(x, y, extreme=extreme), row[None])
        if not np.isnan(row[ABS_ERROR]):
            break
