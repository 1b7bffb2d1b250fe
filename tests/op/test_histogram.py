"""Pattern histograms: the sums of a large 16-bit tensor equal a NumPy reference that adds in the documented order."""

from math import fsum

import ml_dtypes
import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.op import columns
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.histogram import NUM_PATTERNS, PatternCounter, PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import ComputeDType, QuantSpec

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}
SUMS = (
    columns.ERROR,
    columns.ABS_ERROR,
    columns.SQ_ERROR,
    columns.SQ_INPUT,
    columns.SQ_OUTPUT,
)


def histogram_of(x: np.ndarray, dtype: str, part: int = 1000) -> PatternHistogram:
    counter = PatternCounter(dtype)
    stored = x.view(STORAGE[dtype])
    for start in range(0, stored.size, part):
        counter.see(stored[start : start + part])
    return counter.histogram()


def measured(histogram: PatternHistogram, spec: QuantSpec) -> np.ndarray:
    layout = Layout.of((int(histogram.counts.sum()),), spec)
    return histogram.error_sums(cpu.quant_params(histogram.ranges(), spec, layout, 0, histogram.dtype))[0]


def values(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.standard_t(4, 4099) * 0.02, np.zeros(977), [-0.0, 1e-7, -1e-7]])
    return x.astype(DTYPES[dtype])


@pytest.mark.parametrize("compute_dtype", ["float32", "native"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_follow_the_documented_order(dtype: str, compute_dtype: str) -> None:
    x = values(dtype)
    spec = QuantSpec(num_bits=5, compute_dtype=ComputeDType(compute_dtype))
    got = measured(histogram_of(x, dtype), spec)

    y = quantize_and_dequantize_v4(x, num_bits=5, compute_dtype=compute_dtype)
    patterns, first, counts = np.unique(x.view(np.uint16), return_index=True, return_counts=True)
    a = x[first].astype(np.float64)
    b = y[first].astype(np.float64)
    e = b - a
    for column, term in zip(SUMS, (e, np.abs(e), e * e, a * a, b * b), strict=True):
        lanes = np.zeros(16)
        for pattern, value in zip(patterns, counts * term, strict=True):
            lanes[pattern % 16] += value
        while lanes.size > 1:
            lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
        assert got[column] == lanes[0]
        exact = fsum((count * t for count, t in zip(counts.tolist(), term.tolist(), strict=True)))
        assert got[column] == pytest.approx(exact, rel=1e-13, abs=1e-18)
    assert got[columns.ZEROED] == np.count_nonzero((x != 0) & (y == 0))
    assert got[columns.MAX_ABS_ERROR] == np.abs(y.astype(np.float64) - x.astype(np.float64)).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_counted_and_left_out(dtype: str) -> None:
    x = values(dtype)
    spoiled = np.concatenate([x, np.array([np.nan, np.inf, -np.inf, np.nan], DTYPES[dtype])])
    spec = QuantSpec(range_given=True, compute_dtype=ComputeDType.FLOAT32)
    layout = Layout.of(spoiled.shape, spec)
    params = cpu.quant_params(np.array([[-0.1], [0.1]], np.float32), spec, layout, 0, dtype)
    got, clean = (histogram_of(part, dtype).error_sums(params)[0] for part in (spoiled, x))
    assert got[columns.NONFINITE] == 4
    others = [column for column in range(columns.SUM_COLUMNS) if column != columns.NONFINITE]
    assert got[others].tolist() == clean[others].tolist()
    assert got[columns.INPUT_MAX] == x.astype(np.float64).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_are_those_of_the_elements(dtype: str) -> None:
    x = values(dtype)
    with_nan = np.concatenate([x, np.array([np.nan], DTYPES[dtype])])
    expected = [[float(x.min())], [float(x.max())]]
    assert histogram_of(with_nan, dtype).ranges().tolist() == expected
    assert np.isnan(histogram_of(with_nan[-1:], dtype).ranges()).all()


def test_parts_merge_to_the_whole() -> None:
    x = values("BF16")
    whole = histogram_of(x, "BF16", part=x.size)
    merged = histogram_of(x[:1001], "BF16").merge(histogram_of(x[1001:], "BF16"))
    assert merged.counts.tolist() == whole.counts.tolist()
    assert whole.counts.tolist() == np.bincount(x.view(np.uint16), minlength=NUM_PATTERNS).tolist()
