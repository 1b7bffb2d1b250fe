"""The ranges that estimators choose, said a second time and in the plainest way: NumPy, one slice after another."""

from fractions import Fraction
from math import ceil, fsum, inf
from typing import Any

import numpy as np

from qdqcli import quantize_and_dequantize_v4
from tests.run.slices import Op

CHUNK = 65_536
Ends = tuple[Any, Any]


def arithmetic_of(x: np.ndarray, compute_dtype: str) -> np.dtype[Any]:
    return np.dtype(np.float32) if x.itemsize == 2 and compute_dtype == "float32" else x.dtype


def finite_of(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN is cast
        return x[np.isfinite(x.astype(np.float64))]


def ordered(finite: np.ndarray) -> np.ndarray:
    """Ascending, with -0 before +0."""
    wide = finite.astype(np.float64)
    return finite[np.lexsort((~np.signbit(wide), wide))]


def percentile(x: np.ndarray, percent: str) -> Ends:
    """The element of rank ceil(P / 100 * n), and the one of the same rank from above."""
    finite = finite_of(x)
    if not finite.size:
        return 0.0, 0.0
    by_rank = ordered(finite)
    rank = ceil(Fraction(percent) / 100 * len(by_rank))
    return by_rank[-rank], by_rank[rank - 1]


def squared_error(x: np.ndarray, ranges: Ends, op: Op, compute_dtype: str, **attributes: Any) -> float:
    """The documented sum of squared errors of a slice; infinite where a finite element becomes something else."""
    wide = x.astype(arithmetic_of(x, compute_dtype))
    with np.errstate(all="ignore"):
        y = op(wide, *ranges, range_given=True, **attributes).astype(x.dtype)
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    counted = np.isfinite(wide_x)
    if not np.isfinite(wide_y[counted]).all():
        return inf
    return _ordered_sum(np.where(counted, wide_y - np.where(counted, wide_x, 0.0), 0.0) ** 2)


def _ordered_sum(terms: np.ndarray) -> float:
    """In chunks of 65,536; of each, element i in lane i % 16, then the lanes pairwise; the chunks exactly."""
    sums = []
    for begin in range(0, len(terms), CHUNK):
        chunk = terms[begin : begin + CHUNK]
        lanes = np.add.accumulate(np.append(chunk, np.zeros(-len(chunk) % 16)).reshape(-1, 16))[-1]
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        sums.append(float(lanes[0]))
    return fsum(sums)


def candidates(x: np.ndarray, compute_dtype: str) -> list[Ends]:
    number = np.float64 if x.dtype == np.float64 else np.float32
    ranges = ordered(finite_of(x))[[0, -1]].astype(number)
    with np.errstate(all="ignore"):
        shrunk = [ranges * number(k / 100) for k in range(1, 101)]
        return [tuple(pair.astype(arithmetic_of(x, compute_dtype))) for pair in shrunk]


def mse(x: np.ndarray, op: Op = quantize_and_dequantize_v4, compute_dtype: str = "native", **attributes: Any) -> Ends:
    """The candidate with the least error, of equals the widest."""
    if not finite_of(x).size:
        return 0.0, 0.0
    ranges = candidates(x, compute_dtype)
    errors = [squared_error(x, ranges, op, compute_dtype, **attributes) for ranges in ranges]
    return ranges[max(k for k, error in enumerate(errors) if error == min(errors))]
