"""Percentiles of many slices at once, of one in parts and from counts: the elements that sorting finds."""

from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdqcli.op.layout import Layout
from qdqcli.op.params import PATTERN, STORAGE
from qdqcli.op.spec import QuantSpec
from qdqcli.ranges.estimator import WholeSlices
from qdqcli.ranges.percentile import PercentileEstimator
from tests.op.bits import assert_same_bits
from tests.ranges import oracle
from tests.run.checkpoints import DTYPES


def of_slices(x: np.ndarray, dtype: str, percent: float) -> np.ndarray:
    """The ends for each row of `x`."""
    spec = QuantSpec(estimator="percentile", percentile=percent)
    layout = Layout.of(x.shape, QuantSpec(axis=0))
    stored = x.reshape(-1).view(STORAGE[dtype])
    return PercentileEstimator(spec, dtype).of_slices(WholeSlices(x=stored, start=0, layout=layout))


def in_parts(x: np.ndarray, dtype: str, percent: float, step: int) -> np.ndarray:
    """The ends of one slice."""
    long_slice = PercentileEstimator(QuantSpec(estimator="percentile", percentile=percent), dtype).of_long_slice(x.size)
    stored = x.view(STORAGE[dtype])
    while True:
        for start in reversed(range(0, x.size, step)):
            long_slice.see(stored[start : start + step], start, min(start + step, x.size))
        if long_slice.finish_pass():
            return long_slice.ranges()


def expected(x: np.ndarray, percent: float) -> np.ndarray:
    ranges = [oracle.percentile(row, str(percent)) for row in x]
    return np.array(ranges, np.float64).T.astype(np.float64 if x.dtype == np.float64 else np.float32)


def patterns(shape: tuple[int, int], dtype: str, seed: int) -> np.ndarray:
    """Any bits at all: all exponents, subnormals, infinities, NaN."""
    limits = np.iinfo(PATTERN[dtype])
    bits = np.random.default_rng(seed).integers(limits.min, limits.max, shape, PATTERN[dtype], endpoint=True)
    return bits.view(DTYPES[dtype])


def few_values(shape: tuple[int, int], dtype: str, seed: int) -> np.ndarray:
    """Ties everywhere, -0 and +0 among them."""
    values = np.array([-inf, -2, -0.5, -0.0, 0.0, 0.25, 0.5, 3, np.nan])
    return np.random.default_rng(seed).choice(values, shape).astype(DTYPES[dtype])


def weights(shape: tuple[int, int], dtype: str, seed: int) -> np.ndarray:
    """Rows of very different sizes: the guess from the row before is wrong."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, (shape[0], 1))).astype(DTYPES[dtype])


@settings(max_examples=150)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(["BF16", "F16", "F32", "F64"]),
    make=st.sampled_from([patterns, few_values, weights]),
    num_slices=st.integers(1, 5),
    size=st.one_of(st.integers(1, 70), st.integers(1000, 3000)),
    percent=st.sampled_from([50.1, 62.5, 90.0, 99.0, 99.9, 99.99, 100.0]),
    step=st.integers(1, 3000),
)
def test_an_end_is_the_element_that_sorting_finds(
    seed: int, dtype: str, make: Any, num_slices: int, size: int, percent: float, step: int
) -> None:
    x = make((num_slices, size), dtype, seed)
    want = expected(x, percent)
    assert_same_bits(of_slices(x, dtype, percent), want)
    assert_same_bits(in_parts(x[0], dtype, percent, max(step, size // 8)), want[:, :1])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_the_range_of_minus_x_is_the_range_of_x_turned_over(dtype: str) -> None:
    x = weights((7, 999), dtype, 3)
    low, high = of_slices(x, dtype, 98.7)
    assert_same_bits(of_slices(-x, dtype, 98.7), np.stack([-high, -low]))


def test_the_percent_is_the_decimal_number_that_was_written() -> None:
    x = np.arange(1000, dtype=np.float32).reshape(1, -1)
    assert of_slices(x, "F32", 99.9).tolist() == [[1.0], [998.0]], "99.9 / 100 * 1000 is above 999 in floating point"
    assert of_slices(x[:, :999], "F32", 99.9).tolist() == [[0.0], [998.0]], "fewer than 100 / (100 - P): extremes"
