"""The error sums of two arrays: the documented order to the bit, both sides of each threshold, and how exact it is."""

from itertools import product
from math import fsum, log10, sqrt

import ml_dtypes
import numpy as np
import pytest

from qdqcli import QuantSpec, quantize_and_measure
from qdqcli.op.columns import ABS_ERROR, ERROR, MAX_ABS_ERROR, SQ_ERROR, SQ_INPUT, SQ_OUTPUT, ZEROED
from qdqcli.op.cpu.dispatch import error_sums
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import ComputeDType
from qdqcli.stats.metrics import METRICS
from qdqcli.stats.sums import CHUNK_ELEMENTS, ErrorSums, value_of
from tests import reference

NUMPY = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
COLUMNS = (ERROR, ABS_ERROR, SQ_ERROR, SQ_INPUT, SQ_OUTPUT)


def rows_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    kinds = {np.dtype(kind): name for name, kind in NUMPY.items()}
    return error_sums(x.view(STORAGE[kinds[x.dtype]]), y.view(STORAGE[kinds[y.dtype]]))


def assert_sums_are_the_references(x: np.ndarray, y: np.ndarray) -> None:
    rows = rows_of(x, y)
    expected = reference.ordered_sums(x, y)
    for name, column in zip(reference.SUMS, COLUMNS, strict=True):
        assert fsum(rows[:, column]) == expected[name], name
    a, b = x.astype(np.float64), y.astype(np.float64)
    counted = np.isfinite(a) & np.isfinite(b)
    assert rows[:, ZEROED].sum() == ((a != 0) & (b == 0) & counted).sum()
    assert max(rows[:, MAX_ABS_ERROR]) == pytest.approx(abs(b - a)[counted].max(initial=0), rel=1e-7)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 4095, 4097, 65_535, 65_536, 65_537, 70_001])
@pytest.mark.parametrize("dtype", NUMPY)
def test_sums_of_every_size(dtype: str, size: int) -> None:
    rng = np.random.default_rng(size)
    x = (rng.standard_t(3, size) * 0.02).astype(NUMPY[dtype])
    y = (np.rint(x.astype(np.float64) * 50) / 50).astype(NUMPY[dtype])
    assert_sums_are_the_references(x, y)


@pytest.mark.parametrize(("before", "after"), [("F32", "BF16"), ("F16", "F32"), ("F32", "F64"), ("F64", "BF16")])
def test_sums_between_dtypes(before: str, after: str) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(70_001) * 0.02).astype(NUMPY[before])
    assert_sums_are_the_references(x, x.astype(np.float64).astype(NUMPY[after]))
    assert_sums_are_the_references(x * 0, (x * 0).astype(NUMPY[after]))


@pytest.mark.parametrize("dtype", NUMPY)
def test_elements_that_are_not_finite_add_nothing(dtype: str) -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(3 * CHUNK_ELEMENTS - 5) * 0.02).astype(NUMPY[dtype])
    y = (np.rint(x.astype(np.float64) * 50) / 50).astype(NUMPY[dtype])
    x[5], x[CHUNK_ELEMENTS + 7], y[9], y[CHUNK_ELEMENTS - 1] = np.nan, -np.inf, np.inf, np.nan
    x[2 * CHUNK_ELEMENTS :] = np.nan
    assert_sums_are_the_references(x, y)


def at_threshold(condition: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """A chunk whose sums of float32 terms are `factor` times a bound of the rule for extreme chunks."""
    rng = np.random.default_rng(3)
    x = rng.uniform(0.5, 1, 1000).astype(np.float32)
    if condition == "x^2 is small":
        x *= np.float32(sqrt(factor * 2.0**-100 / float((x.astype(np.float64) ** 2).sum())))
        return x, x
    if condition == "e^2 is small":
        e = np.zeros_like(x)
        e[::7] = np.float32(sqrt(factor * 2.0**-100 / e[::7].size))
        return np.zeros_like(x) + (np.arange(1000) % 7 > 0), (np.arange(1000) % 7 > 0) + e
    if condition == "y^2 is small":
        y = np.full_like(x, sqrt(factor * 2.0**-100 / x[::3].size))
        y[np.arange(y.size) % 3 > 0] = 0
        return x * np.float32(2.0**-52), y
    if condition == "x y is small beside x^2":
        return x, x * np.float32(factor / 256)
    if condition == "x y is small beside y^2":
        return x, x * np.float32(256 / factor)
    x = np.full(1000, 2.0**62 * sqrt(factor), np.float32)  # a lane of a run adds sixteen squares
    return x, (x * np.float32(0.75)).astype(np.float32)


CONDITIONS = [
    "x^2 is small",
    "e^2 is small",
    "y^2 is small",
    "x y is small beside x^2",
    "x y is small beside y^2",
    "x^2 is infinite",
]


@pytest.mark.parametrize("factor", [0.5, 0.999, 1.001, 2.0])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_both_sides_of_each_threshold(condition: str, factor: float) -> None:
    with np.errstate(over="ignore"):
        x, y = (array.astype(np.float32) for array in at_threshold(condition, factor))
    assert_sums_are_the_references(x, y)
    long_x, long_y = np.concatenate([x, np.ones(CHUNK_ELEMENTS, np.float32)]), np.concatenate([y, x, y, x])
    assert_sums_are_the_references(long_x[: long_y.size], long_y)  # others of its chunk decide


@pytest.mark.parametrize("condition", CONDITIONS)
def test_thresholds_are_met_from_both_sides(condition: str) -> None:
    """The cases above do what their names say."""
    found = set()
    for factor in (0.999, 1.001):
        with np.errstate(over="ignore"):
            x, y = at_threshold(condition, factor)
        found.add(reference.is_extreme(*reference.chunk_sums(x, y, np.float32)))
    assert found == {False, True}


def test_a_chunk_is_extreme_by_itself() -> None:
    rng = np.random.default_rng(4)
    x = (rng.standard_normal(4 * CHUNK_ELEMENTS) * 0.02).astype(np.float32)
    x[CHUNK_ELEMENTS : 2 * CHUNK_ELEMENTS] *= np.float32(1e-30)
    x[2 * CHUNK_ELEMENTS : 3 * CHUNK_ELEMENTS] *= np.float32(1e25)
    x[3 * CHUNK_ELEMENTS :] = 0
    assert_sums_are_the_references(x, (x * np.float32(1.01)).astype(np.float32))


# How exact


def data(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(11)
    normal = rng.standard_normal(size) * 0.02
    if kind == "one huge outlier":
        normal[size // 3] = 1000.0
    made = {
        "student t 2": lambda: rng.standard_t(2, size) * 0.01,
        "uniform": lambda: rng.random(size),
        "pruned": lambda: normal * (rng.random(size) < 0.3),
        "log uniform": lambda: np.exp(rng.uniform(-60, 0, size)) * rng.choice([-1, 1], size),
        "constant": lambda: np.full(size, 0.0123456789),
        "constant and a one": lambda: np.where(np.arange(size) == 0, 1, 0.0123456789),
        "one ulp apart": lambda: 1 + rng.integers(0, 2, size) * 2.0**-23,
        "scale 1e-38": lambda: normal * 1e-38,
        "scale 1e-20": lambda: normal * 1e-20,
        "scale 1e30": lambda: normal * 1e30,
    }
    return made.get(kind, lambda: normal)()


KINDS = ["gauss", "one huge outlier", "student t 2", "uniform", "pruned", "log uniform", "constant",
         "constant and a one", "one ulp apart", "scale 1e-38", "scale 1e-20", "scale 1e30"]  # fmt: skip


@pytest.mark.parametrize("given_range", [None, (-0.01, 0.01), (-1e-4, 1e-4), (-3e-8, 3e-8)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_as_exact_as_documented(kind: str, given_range: tuple[float, float] | None) -> None:
    for dtype, bits in product(("F32", "BF16", "F16"), (2, 4, 8, 16)):
        with np.errstate(all="ignore"):
            x = data(kind, 70_007).astype(NUMPY[dtype])
        y, sums = quantize_and_measure(x, QuantSpec(num_bits=bits, compute_dtype=ComputeDType.FLOAT32), given_range)
        assert_within_bounds(x.astype(np.float64), y.astype(np.float64), sums, (kind, dtype, bits))


def assert_within_bounds(x: np.ndarray, y: np.ndarray, sums: ErrorSums, case: object) -> None:
    counted = np.isfinite(x) & np.isfinite(y)
    x, y = x[counted], y[counted]
    e = y - x
    error, size, ee, xx, yy = (fsum(term) for term in (e, abs(e), e * e, x * x, y * y))
    assert abs(value_of(sums.error) - error) <= 1.1e-6 * size, case
    for got, want in ((sums.abs_error, size), (sums.sq_error, ee), (sums.sq_input, xx), (sums.sq_output, yy)):
        assert value_of(got) == pytest.approx(want, rel=1.1e-6, abs=0), case
    if ee and xx:
        assert METRICS["sqnr_db"].value(sums) == pytest.approx(10 * (log10(xx) - log10(ee)), rel=0, abs=1e-5), case
    if yy and xx:
        product = sqrt(xx) * sqrt(yy)
        tolerance = 1.1e-6 * (xx + yy + ee) / (2 * product)  # at most 3e-4, unless y is nothing beside x
        assert METRICS["cosine_similarity"].value(sums) == pytest.approx(fsum(x * y) / product, rel=0, abs=tolerance), (
            case
        )


@pytest.mark.parametrize("end", [1e-7, 3e-8])
def test_the_cosine_does_not_cancel_where_the_range_is_far_too_narrow(end: float) -> None:
    x = np.random.default_rng(5).standard_normal(10_000)
    for dtype in ("F32", "F64"):
        y, sums = quantize_and_measure(x.astype(NUMPY[dtype]), QuantSpec(), (-end, end))
        a, b = x.astype(NUMPY[dtype]).astype(np.float64), y.astype(np.float64)
        want = fsum(a * b) / sqrt(fsum(a * a) * fsum(b * b))
        assert METRICS["cosine_similarity"].value(sums) == pytest.approx(want, abs=1e-5), dtype
