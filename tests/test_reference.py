"""The corner tables of the specification as literal values: they pin the oracle, and the public API beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import qdqcli
from tests import reference
from tests.conformance.golden import FULL, SUBSET, Golden
from tests.op.bits import assert_same_bits

Op = Callable[..., Any]

INF, NAN = math.inf, math.nan
DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


@pytest.fixture(params=["oracle", "api"])
def op(request: pytest.FixtureRequest) -> Op:
    return reference.quantize_and_dequantize_v4 if request.param == "oracle" else qdqcli.quantize_and_dequantize_v4


@pytest.fixture(params=["oracle", "api"])
def grad(request: pytest.FixtureRequest) -> Op:
    oracle = request.param == "oracle"
    return reference.quantize_and_dequantize_v4_grad if oracle else qdqcli.quantize_and_dequantize_v4_grad


def array(values: Any, dtype: str = "float32") -> np.ndarray:
    return np.array(values, np.float64).astype(DTYPES[dtype])


def check(op: Op, x: Any, expected: Any, *, dtype: str = "float32", given: Any = None, **attrs: Any) -> None:
    """Run the op on `x`, with the range `given` if there is one, and compare bit for bit."""
    source = array(x, dtype)
    if given is None:
        got = op(source, None, None, **attrs)
    else:
        lo, hi = (array(end, dtype)[()] for end in given)
        got = op(source, lo, hi, range_given=True, **attrs)
    assert_same_bits(got, array(expected, dtype), source)


# The rounding of one element. Bits and range are chosen so that scale and inverse scale are 1, hence output = q.

UNIT_SCALE = {"bfloat16": (10, 2.0**9), "float16": (13, 2.0**12), "float32": (30, 2.0**29), "float64": (61, 2.0**60)}

HALF_UP_ALL = [
    (0.5, 1),
    (-0.5, 0.0),
    (-0.0, 0.0),
    (-0.25, 0.0),
    (0.25, 0.0),
    (0.75, 1),
    (-0.75, -1),
    (1.5, 2),
    (2.5, 3),
    (-1.5, -1),
    (-2.5, -2),
    (-3.5, -3),
]
HALF_UP = {
    "bfloat16": [
        (0.498046875, 1),  # the largest below one half: the sum rounds to 1
        (-0.498046875, 0.0),
        (128, 128),
        (129, 130),
        (131, 132),
        (255, 256),
        (-129, -128),
        (256, 256),
    ],
    "float16": [
        (0.499755859375, 1),
        (-0.499755859375, 0.0),
        (1024, 1024),
        (1025, 1026),
        (2047, 2048),
        (-1025, -1024),
        (2048, 2048),
        (2050, 2050),
    ],
    "float32": [
        (0.49999997, 1),
        (-0.49999997, 0.0),
        (-0.50000006, -1),
        (8388608, 8388608),
        (8388609, 8388610),
        (8388611, 8388612),
        (-8388609, -8388608),
        (16777216, 16777216),
        (16777218, 16777218),
        (-16777218, -16777218),
    ],
    "float64": [
        (0.49999999999999994, 1),
        (-0.49999999999999994, 0.0),
        (4503599627370497, 4503599627370498),
        (-4503599627370497, -4503599627370496),
        (9007199254740994, 9007199254740994),
    ],
}
HALF_TO_EVEN_ALL = [
    (0.5, 0.0),
    (-0.5, -0.0),
    (-0.0, -0.0),
    (-0.3, -0.0),
    (0.75, 1),
    (1.5, 2),
    (2.5, 2),
    (3.5, 4),
    (-1.5, -2),
    (-2.5, -2),
]
HALF_TO_EVEN = {
    "bfloat16": [(0.498046875, 0.0), (129, 129), (255, 255)],
    "float16": [(0.499755859375, 0.0), (1025, 1025), (2047, 2047)],
    "float32": [(0.49999997, 0.0), (-0.50000006, -1), (8388609, 8388609), (-8388609, -8388609)],
    "float64": [(0.49999999999999994, 0.0), (4503599627370497, 4503599627370497)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("round_mode", "table"),
    [
        ("HALF_UP", {dtype: HALF_UP_ALL + HALF_UP[dtype] for dtype in DTYPES}),
        ("HALF_TO_EVEN", {dtype: HALF_TO_EVEN_ALL + HALF_TO_EVEN[dtype] for dtype in DTYPES}),
    ],
    ids=["HALF_UP", "HALF_TO_EVEN"],
)
def test_rounding_of_one_element(op: Op, dtype: str, round_mode: str, table: dict[str, list[Any]]) -> None:
    num_bits, end = UNIT_SCALE[dtype]
    x, q = zip(*table[dtype], strict=True)
    check(op, x, q, dtype=dtype, given=(-end, end), num_bits=num_bits, round_mode=round_mode)


# Edge cases: name, input, expected output, attributes. float32 and 8 bits signed unless said.

UNSIGNED: dict[str, Any] = {"signed_input": False}
EDGES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("zeros", [0, 0], [0, 0], {}),
    ("only -0", [-0.0, -0.0], [0, 0], {}),
    ("only -0, half up", [-0.0, -0.0], [-0.0, -0.0], {"round_mode": "HALF_UP"}),
    ("all positive", [1, 2, 3], [0.99212599, 2.007874, 3], {}),
    ("all negative", [-1, -2, -3], [-1.0078125, -1.9921875, -3], {}),
    ("all negative, unsigned", [-1, -2, -3], [1.3344406e36, INF, INF], UNSIGNED),
    ("negative and zero, unsigned", [-1, -2, 0], [-0.0, NAN, 0], UNSIGNED),
    ("mostly negative, unsigned", [-300, -2, 1], [-300.00003, -2, 1], UNSIGNED),
    ("unsigned, given [-3,-1]", [-5, 0, -1, -2, 3], [0, 0, 0, 0, 0], {"given": (-3, -1), **UNSIGNED}),
    ("unsigned, given [-3,0]", [-5, 0, -1, -2, 3], [0, 0, 0, 0, 0], {"given": (-3, 0), **UNSIGNED}),
    ("given [1,2]", [-5, 0, 1, 1.5, 2, 3], [-2.015748, 0, 1.007874, 1.496063, 2, 2], {"given": (1, 2)}),
    ("given [-2,-1]", [-5, 0, -1, -1.5, -2, 3], [-2, 0, -1, -1.5, -2, 1.984375], {"given": (-2, -1)}),
    ("given 2,2", [-5, 0, 1, 2, 3], [-2.015748, 0, 1.007874, 2, 2], {"given": (2, 2)}),
    ("given 0,0", [-5, -0.0, 0, 1], [-0.0, -0.0, 0, 0], {"given": (0, 0)}),
    ("given 0,0, half up", [-5, -0.0, 0, 1], [0, 0, 0, 0], {"given": (0, 0), "round_mode": "HALF_UP"}),
    ("given -0,-0", [-5, -0.0, 0, 1], [-0.0, 0, -0.0, 0], {"given": (-0.0, -0.0)}),
    ("1 bit", [-4, -1, 1, 3], [-4, -0.0, 0, 4], {"num_bits": 1}),
    ("1 bit, all positive", [1, 2, 3], [INF, INF, INF], {"num_bits": 1}),
    ("1 bit, zeros", [0, 0], [NAN, NAN], {"num_bits": 1}),
    ("1 bit narrow", [-4, -1, 0, 3], [-INF, -INF, NAN, INF], {"num_bits": 1, "narrow_range": True}),
    ("1 bit unsigned", [-4, -1, 1, 3], [-3, -0.0, 0, 3], {"num_bits": 1, **UNSIGNED}),
    ("1 bit unsigned, given", [-4, -1, 1, 3], [0, 0, 0, 2], {"num_bits": 1, "given": (-2, 2), **UNSIGNED}),
    ("2 bits", [-4, -1, 1, 3], [-3, -0.0, 0, 3], {"num_bits": 2, "narrow_range": False}),
    ("2 bits narrow", [-4, -1, 1, 3], [-4, -0.0, 0, 4], {"num_bits": 2, "narrow_range": True}),
    ("narrow is ignored when unsigned", [1, 2], [1.0039216, 2], {"narrow_range": True, **UNSIGNED}),
    ("61 bits", [1 / 3, 0.1, -1], [1 / 3, 0.1, -1], {"num_bits": 61}),
    ("25 bits", [1 / 3, -1], [0.33333337, -1], {"num_bits": 25}),
    ("54 bits, float64", [0.3, 0.7], [0.30000000000000004, 0.7000000000000001], {"num_bits": 54, "dtype": "float64"}),
    ("+inf", [1, -2, INF, 0], [NAN] * 4, {}),
    ("-inf", [1, -2, -INF, 0], [NAN] * 4, {}),
    ("-inf, unsigned", [1, 2, -INF, -1], [1.0039216, 2, -INF, -1.0039216], UNSIGNED),
    ("inf elements, given", [1, 2, INF, -INF], [1, 1, 1, -1.007874], {"given": (-1, 1)}),
    ("infinite given range", [0.3, -1, 0], [NAN] * 3, {"given": (-INF, INF)}),
    ("infinite given maximum", [0.3, -1, 0], [NAN] * 3, {"given": (-1, INF)}),
    ("infinite given minimum", [0.3, -1, 0], [NAN] * 3, {"given": (-INF, 1)}),
    ("infinite given minimum, unsigned", [0.3], [0.29803923], {"given": (-INF, 1), **UNSIGNED}),
    ("NaN first", [NAN, 1, 2], [NAN, 1.007874, 2], {}),
    ("NaN in the middle", [1, NAN, 2], [1.007874, NAN, 2], {}),
    ("NaN last", [1, 2, NAN], [1.007874, 2, NAN], {}),
    ("NaN, given range", [NAN, 1, 2], [NAN, 1, 1], {"given": (-1, 1)}),
    ("only NaN", [NAN, NAN], [NAN, NAN], {}),
    ("largest value", [3.4028235e38], [INF], {}),
    ("large value", [3.4e38], [3.4e38], {}),
    ("rank 0", 3.7, 3.7, {}),
    ("rank 0, unsigned", -3.7, INF, UNSIGNED),
    ("a maximum need not survive", [0.1], [0.10000001], {"num_bits": 3}),
    ("empty", [], [], {}),
    ("empty with channels", np.zeros((0, 3)), np.zeros((0, 3)), {"axis": 1}),
    ("inverse scale flushed to zero", [1e-36, -5e-37], [0, -0.0], {}),
    ("scale flushed to zero, 2 bits", [3e38, -3e38], [0, -0.0], {"num_bits": 2}),
    ("scale flushed to zero, 3 bits", [3e38], [0], {"num_bits": 3}),
    ("float64 flushed", [1e-306, 5e-307], [0, 0], {"dtype": "float64"}),
    ("bfloat16 flushed", [1e-36, 5e-37], [0, 0], {"dtype": "bfloat16"}),
    ("float16 is not flushed", [2**-15, 2**-17, 3 * 2**-17], [2**-15, 0, 2**-15],
     {"dtype": "float16", "num_bits": 1, **UNSIGNED}),
    ("8 bits unsigned, bfloat16, half up", [255, 1], [256, 1],
     {"dtype": "bfloat16", "round_mode": "HALF_UP", **UNSIGNED}),
    ("float16 overflow of the scale", [0.001, 0], [NAN, NAN], {"dtype": "float16", **UNSIGNED}),
    ("16 bits unsigned, float16", [1, 2, 3], [INF, INF, INF], {"dtype": "float16", "num_bits": 16, **UNSIGNED}),
    (
        "float16 in float32",
        [1049 * 2.0**-20, -1049 * 2.0**-21],
        [1049 * 2.0**-20, -1057 * 2.0**-21],
        {"dtype": "float16", "compute_dtype": "float32"},
    ),
    ("16 bits unsigned, float16 in float32", [1, 2, 3], [1, 2, 3],
     {"dtype": "float16", "num_bits": 16, "compute_dtype": "float32", **UNSIGNED}),
    ("per channel", [[1, 2, 3], [10, 20, 30]], [[0.99212599, 2.007874, 3], [9.9212599, 20.078741, 30]], {"axis": 0}),
    (
        "per channel, last axis, given",
        [[1, 2], [-5, 0.3]],
        [[1, 2], [-128 / 127, 38 / 127]],
        {"axis": 1, "given": ([-1, -2], [1, 2]), "dtype": "float64"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("x", "expected", "how"), [row[1:] for row in EDGES], ids=[row[0] for row in EDGES])
def test_edge_case(op: Op, x: Any, expected: Any, how: dict[str, Any]) -> None:
    check(op, x, expected, **how)


# Elements below the smallest normal number, where the step is so small that they would round to 1 if not flushed


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("given", [False, True], ids=["measured", "given"])
def test_subnormal_elements_are_flushed_where_it_shows(op: Op, dtype: str, given: bool) -> None:
    tiny = reference.FORMATS[dtype].tiny
    hi = 1.25 * tiny  # scale = 0.8 / tiny
    x, y = [hi, tiny, tiny * 0.984375, tiny * -0.984375, tiny * -0.5], [hi, hi, 0.0, -0.0, -0.0]
    check(op, x, y, dtype=dtype, given=(-hi, hi) if given else None, num_bits=2)


def test_a_negative_subnormal_element_keeps_its_sign_at_a_bound_of_zero(op: Op) -> None:
    check(op, [-1e-40, 1e-40, 1, -1], [-0.0, 0, 1, 0], given=(0, 1), signed_input=False)


# The odd quotient: the largest number below 2^k * tiny, divided by 2^k. IEEE rounds it up to tiny; it must be zero.


@pytest.mark.parametrize(
    ("dtype", "num_bits", "k", "tiny"),
    [("bfloat16", 10, 9, 2.0**-126), ("float32", 26, 25, 2.0**-126), ("float64", 61, 60, 2.0**-1022)],
)
def test_quotient_that_ieee_rounds_up_to_tiny_is_flushed(
    op: Op, dtype: str, num_bits: int, k: int, tiny: float
) -> None:
    precision = {"bfloat16": 8, "float32": 24, "float64": 53}[dtype]
    exact = 2.0**k * tiny
    below = exact * (1 - 2.0**-precision)
    check(op, [exact], [exact], dtype=dtype, given=(0, exact), num_bits=num_bits)
    check(op, [below], [0], dtype=dtype, given=(0, below), num_bits=num_bits)


def test_range_is_widened_on_the_side_that_does_not_set_the_scale() -> None:
    ends = np.float32(-1), np.float32(1)
    got = reference.representable_range(array([0.0]), *ends, range_given=True)
    assert got.scale == 127
    assert got.max_range == 1
    assert got.inverse_scale == np.float32(1) / np.float32(127)
    assert got.min_range == np.float32(-128) * (np.float32(1) / np.float32(127))


def test_representable_range_has_one_entry_per_channel() -> None:
    got = reference.representable_range(array([[1, 2], [NAN, NAN]]), axis=0, num_bits=2)
    assert got.scale.shape == (2,)
    assert (got.min_range[0], got.max_range[0], got.scale[0], got.inverse_scale[0]) == (-4, 2, 0.5, 2)
    assert all(np.isnan(part[1]) for part in got)


def test_gradient_mask_is_inclusive_and_multiplies(grad: Op) -> None:
    x = array([-1.5, -1, -0.5, 1, 1.5, NAN, 2, 2, 2])
    g = array([1, 2, 3, 4, -5, 6, NAN, INF, 7])
    ends = np.float32(-1), np.float32(1)
    backprop, min_backprop, max_backprop = grad(g, x, *ends)
    assert_same_bits(np.asarray(backprop), array([0, 2, 3, 4, -0.0, 0, NAN, NAN, 0]), x)
    assert_same_bits(np.asarray(min_backprop), array(0.0))
    assert_same_bits(np.asarray(max_backprop), array(0.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_per_channel_flushes_and_allows_reversed_and_nan_ends(grad: Op, dtype: str) -> None:
    small = {"bfloat16": 1e-39, "float16": 1e-6, "float32": 1e-39, "float64": 1e-310}[dtype]
    x = array([[1, 0, small], [1, 0, small], [1, 0, small], [1, 0, small]], dtype)
    g = array([[1, -2, small]] * 4, dtype)
    lows, highs = array([2, -2, NAN, -1], dtype), array([-2, 2, 1, 0], dtype)
    kept = float(array(small, dtype)) if dtype == "float16" else 0.0
    inside = 0.0  # the last channel ends at 0: `small` is inside where it is flushed, and its gradient is then 0 too
    expected = [[0, -0.0, 0], [1, -2, kept], [0, -0.0, 0], [0, -2, inside]]
    backprop, min_backprop, max_backprop = grad(g, x, lows, highs, axis=0)
    assert_same_bits(np.asarray(backprop), array(expected, dtype), x)
    assert_same_bits(np.asarray(min_backprop), array([0] * 4, dtype))
    assert_same_bits(np.asarray(max_backprop), array([0] * 4, dtype))


@pytest.mark.parametrize(
    "folder",
    [
        SUBSET,
        pytest.param(
            FULL,
            marks=[
                pytest.mark.slow,  # half a minute
                pytest.mark.skipif(not FULL.is_dir(), reason="the full golden vectors are not beside the project"),
            ],
        ),
    ],
    ids=["subset", "full"],
)
def test_oracle_equals_tensorflow(folder: Any) -> None:
    vectors = Golden(folder)
    wrong = [
        text
        for case in vectors.cases
        if (
            text := vectors.mismatch(
                case, reference.quantize_and_dequantize_v4, reference.quantize_and_dequantize_v4_grad
            )
        )
    ]
    assert not wrong, "\n".join(wrong[:10])


# Arithmetic of the oracle against IEEE hardware, where the two must agree: results in the normal range


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_oracle_arithmetic_equals_ieee_in_the_normal_range(dtype: str) -> None:
    random = np.random.default_rng(20)
    fmt, scalar = reference.FORMATS[dtype], DTYPES[dtype].type
    values = (random.standard_normal(500) * 2.0 ** random.integers(-30, 30, 500)).astype(DTYPES[dtype])
    for a, b in itertools.pairwise(values):
        assert fmt.add(float(a), float(b)) == scalar(a + b)
        assert fmt.multiply(float(a), float(b)) == scalar(a * b)
        assert fmt.divide(float(a), float(b)) == scalar(a / b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_format_constants(dtype: str) -> None:
    info = ml_dtypes.finfo(DTYPES[dtype])
    fmt = reference.FORMATS[dtype]
    assert fmt.dtype == DTYPES[dtype]
    assert (fmt.tiny, fmt.max) == (float(info.smallest_normal), float(info.max))


# Statistics


def test_error_statistics_of_a_hand_computed_example() -> None:
    x = array([1, -2, 2, 0.5, NAN, INF, 4, 0])
    y = array([1, -1, 4, 0.0, NAN, 1.0, INF, 0])
    got = reference.error_statistics(x, y, -1.5, 3)
    # Counted: 1, -2, 2, 0.5, 0 with e = 0, 1, 2, -0.5, 0
    assert got == {
        "num_elements": 8,
        "num_nonfinite": 2,
        "num_nonfinite_output": 1,
        "input_min": -2,
        "input_max": 4,
        "max_abs_error": 2,
        "mean_error": 0.5,
        "mean_abs_error": 0.7,
        "mse": 1.05,
        "rmse": pytest.approx(math.sqrt(1.05)),
        "relative_l2": pytest.approx(math.sqrt(5.25 / 9.25)),
        "sqnr_db": pytest.approx(10 * math.log10(9.25 / 5.25)),
        "cosine_similarity": pytest.approx((1 + 2 + 8) / math.sqrt(9.25 * 18)),
        "clipped_fraction": 0.2,
        "zeroed_fraction": 0.2,
    }


def test_error_statistics_clip_per_channel() -> None:
    x = array([[-3, 0, 3], [-3, 0, 3]])
    got = reference.error_statistics(x, x, [-1, -2, -9], [9, 9, 2], axis=1)
    assert got["clipped_fraction"] == 4 / 6


def test_error_statistics_of_exact_and_of_zero_tensors() -> None:
    exact = reference.error_statistics(array([1, 2]), array([1, 2]))
    assert (exact["sqnr_db"], exact["relative_l2"]) == (INF, 0)
    assert exact["cosine_similarity"] == pytest.approx(1)
    zeros = reference.error_statistics(array([0, 0]), array([0, 0]))
    assert (zeros["sqnr_db"], zeros["cosine_similarity"]) == (INF, 1)
    lost = reference.error_statistics(array([1, 2]), array([0, 0]))
    assert (lost["sqnr_db"], lost["relative_l2"], lost["cosine_similarity"]) == (0, 1, 0)
    assert math.isnan(reference.error_statistics(array([]), array([]))["mse"])
    assert math.isnan(reference.error_statistics(array([NAN]), array([NAN]))["max_abs_error"])


def sum_of_errors(errors: dict[int, float], size: int) -> float:
    y = np.zeros(size)
    y[list(errors)] = list(errors.values())
    return reference.ordered_sums(np.zeros(size), y)["sum_error"]


def test_ordered_sums_of_examples_where_the_order_shows() -> None:
    big = 1e16  # big + 1 == big
    assert sum_of_errors({0: big, 1: 1, 16: -big}, 17) == 1  # elements 0 and 16 share a lane
    assert sum_of_errors({0: big, 16: 1, 32: -big}, 33) == 0  # which adds one after another
    assert sum_of_errors({0: big, 1: 1, 8: -big}, 16) == 1  # lane 0 meets lane 8 first
    assert sum_of_errors({0: big, 2: 1, 1: -big}, 16) == 0  # and lane 2 before lane 1
    assert sum_of_errors({0: big, 65_536: 1, 131_072: -big}, 131_073) == 1  # chunks add exactly


def test_extreme_chunks_are_summed_in_float64() -> None:
    tiny = np.full(300, 1e-30, np.float32)  # its square is 0 in float32
    found = reference.ordered_sums(tiny, np.zeros_like(tiny))
    assert found["sum_sq_input"] == pytest.approx(300e-60, rel=1e-6)
    huge = np.full(300, 1e30, np.float32)
    assert reference.ordered_sums(huge, huge)["sum_sq_output"] == pytest.approx(300e60, rel=1e-6)


def test_ordered_sums_equal_an_explicit_loop() -> None:
    random = np.random.default_rng(7)
    size = 65_536 + 16 * 5 + 3
    x = (random.standard_normal(size) * 2.0 ** random.integers(-20, 20, size)).astype(np.float32)
    y = (x + random.standard_normal(size) * 0.1).astype(np.float32)
    x[5], y[6], x[65_540] = NAN, INF, -INF
    chunk_sums: list[list[float]] = []
    for start in range(0, size, 65_536):
        stop = min(start + 65_536, size)
        lanes = [[0.0] * 5 for _ in range(16)]
        for run in range(start, stop, 256):
            totals = [[np.float32(0)] * 5 for _ in range(16)]
            for i in range(run, min(run + 256, stop)):
                if math.isfinite(x[i]) and math.isfinite(y[i]):
                    e = y[i] - x[i]
                    for k, term in enumerate((e, abs(e), e * e, x[i] * x[i], y[i] * y[i])):
                        totals[i % 16][k] = totals[i % 16][k] + term
            lanes = [
                [a + float(b) for a, b in zip(lane, total, strict=True)]
                for lane, total in zip(lanes, totals, strict=True)
            ]
        for half in (8, 4, 2, 1):
            lanes = [[a + b for a, b in zip(lanes[i], lanes[i + half], strict=True)] for i in range(half)]
        chunk_sums.append(lanes[0])
    names = ("sum_error", "sum_abs_error", "sum_sq_error", "sum_sq_input", "sum_sq_output")
    expected = {name: math.fsum(sums) for name, sums in zip(names, zip(*chunk_sums, strict=True), strict=True)}
    assert reference.ordered_sums(x, y) == expected
    assert reference.ordered_sums(np.zeros((0, 3)), np.zeros((0, 3))) == dict.fromkeys(names, 0.0)
