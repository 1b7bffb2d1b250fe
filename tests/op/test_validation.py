"""What the public API rejects, in which order and with which words; and which arrays it takes and gives back."""

from __future__ import annotations

import itertools
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qdqcli import QuantSpec, quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad, quantize_and_measure
from tests import reference
from tests.op.bits import assert_same_bits

DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
NAN = float("nan")


def tensor(dtype: str = "float32", shape: tuple[int, ...] = (3, 4)) -> np.ndarray:
    size = int(np.prod(shape))
    return (np.arange(size, dtype=np.float64) - size // 3).reshape(shape).astype(DTYPES[dtype])


def f32(value: Any) -> Any:
    return np.array(value, np.float32)[()]


def given(lo: Any, hi: Any, **attrs: Any) -> dict[str, Any]:
    return {"range_given": True, "input_min": f32(lo), "input_max": f32(hi), **attrs}


# One bad argument: the attribute, the value found and what is allowed are all in the message

BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("num_bits 0", {"num_bits": 0}, ["num_bits", "0", "1", "61"]),
    ("num_bits -3", {"num_bits": -3}, ["num_bits", "-3", "1", "61"]),
    ("num_bits 62 signed", {"num_bits": 62}, ["num_bits", "62", "61"]),
    ("num_bits 63 unsigned", {"num_bits": 63, "signed_input": False}, ["num_bits", "63", "62"]),
    ("round_mode HALF_DOWN", {"round_mode": "HALF_DOWN"}, ["round_mode", "HALF_DOWN", "HALF_TO_EVEN", "HALF_UP"]),
    ("round_mode in lower case", {"round_mode": "half_up"}, ["round_mode", "half_up", "HALF_TO_EVEN", "HALF_UP"]),
    ("axis -2", {"axis": -2}, ["axis", "-2", "-1"]),
    ("axis 2 of rank 2", {"axis": 2}, ["axis", "2", "rank"]),
    ("vector with axis -1", given([-1], [1]), ["input_min", "scalar"]),
    ("vector of one channel each with axis -1", given([-1, -1, -1], [1, 1, 1]), ["input_min", "scalar"]),
    ("input_max alone is a vector", given(-1, [1]), ["input_max", "scalar"]),
    ("scalar with axis 0", given(-1, 1, axis=0), ["input_min", "axis"]),
    ("matrix with axis 0", given([[-1]] * 3, [[1]] * 3, axis=0), ["input_min", "axis"]),
    ("too short", given([-1, -1], [1, 1], axis=0), ["input_min", "2", "3"]),
    ("too long", given([-1] * 5, [1] * 5, axis=1), ["input_min", "5", "4"]),
    ("input_max alone is too long", given([-1] * 4, [1] * 5, axis=1), ["input_max", "5", "4"]),
    ("reversed", given(1, -1), ["input_min", "1", "input_max", "-1"]),
    ("NaN minimum", given(NAN, 1), ["input_min", "nan", "input_max"]),
    ("NaN maximum", given(-1, NAN), ["input_min", "nan", "input_max"]),
    ("reversed in one channel", given([0, 5, 0], [1, 4, 1], axis=0), ["input_min", "5", "input_max", "4"]),
    ("NaN in one channel", given([0, 0, 0], [1, NAN, 1], axis=0), ["input_min", "nan", "input_max"]),
    ("compute_dtype", {"compute_dtype": "float64"}, ["compute_dtype", "float64", "native", "float32"]),
]
BAD_IDS = [name for name, _, _ in BAD]


@pytest.mark.parametrize(("arguments", "words"), [row[1:] for row in BAD], ids=BAD_IDS)
def test_bad_argument_is_a_value_error_that_says_what_is_allowed(arguments: dict[str, Any], words: list[str]) -> None:
    x = tensor()
    with pytest.raises(ValueError, match=r"\S") as caught:
        quantize_and_dequantize_v4(x, **arguments)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"
    assert_same_bits(x, tensor())


@pytest.mark.parametrize("arguments", [row[1] for row in BAD], ids=BAD_IDS)
def test_oracle_rejects_the_same(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        reference.quantize_and_dequantize_v4(tensor(), **arguments)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64, ml_dtypes.float8_e4m3fn])
def test_other_dtypes_are_a_type_error_that_names_the_four(dtype: Any) -> None:
    with pytest.raises(TypeError) as caught:
        quantize_and_dequantize_v4(np.ones(3).astype(dtype))
    for word in (np.dtype(dtype).name, *DTYPES):
        assert word in str(caught.value)


def test_range_given_without_a_range_is_an_error() -> None:
    for ranges in ((None, None), (np.float32(-1), None), (None, np.float32(1))):
        with pytest.raises((ValueError, TypeError), match="input_m"):
            quantize_and_dequantize_v4(tensor(), *ranges, range_given=True)


EMPTY_BAD = [name for name in BAD_IDS if not name.startswith(("too", "scalar", "matrix", "input_max alone is too"))]


@pytest.mark.parametrize("name", EMPTY_BAD)
def test_an_empty_tensor_is_checked_like_any_other(name: str) -> None:
    arguments = dict(BAD[BAD_IDS.index(name)][1])
    with pytest.raises(ValueError, match=r"\S"):
        quantize_and_dequantize_v4(tensor(shape=(3, 0)), **arguments)


def test_an_empty_tensor_checks_the_length_of_its_range() -> None:
    with pytest.raises(ValueError, match="input_min"):
        quantize_and_dequantize_v4(tensor(shape=(0, 3)), **given([], [], axis=1))
    got = quantize_and_dequantize_v4(tensor(shape=(0, 3)), **given([], [], axis=0))
    assert_same_bits(got, tensor(shape=(0, 3)))


# Several bad arguments: the first check in the op's order is the one reported

IN_ORDER: list[tuple[str, dict[str, Any], str]] = [
    ("dtype", {"input": np.ones((3, 4), np.int32)}, r"int32"),
    ("num_bits", {"num_bits": 62}, r"num_bits"),
    ("round_mode", {"round_mode": "HALF_DOWN"}, r"round_mode"),
    ("axis", {"axis": -2}, r"axis.*-2"),
    ("rank", {"axis": 2}, r"axis.*\brank\b"),
    ("range_rank", {"range_given": True, "input_min": f32([[1.0]]), "input_max": f32([[-1.0]])}, r"input_min"),
    ("range_length", {"axis": 0, "range_given": True, "input_min": f32([1, 1]), "input_max": f32([0, 0])}, r"2\b.*3\b"),
]
PAIRS = [
    (first, second)
    for first, second in itertools.combinations(IN_ORDER, 2)
    # One axis cannot be both too small and too large; a range that is wrong for its axis needs that axis.
    if not ("axis" in first[1] and "axis" in second[1] and first[0] != "range_rank")
    and not (first[0] == "range_rank" and second[0] == "range_length")
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{first[0]} before {second[0]}" for first, second in PAIRS])
def test_the_first_failing_check_is_reported(first: Any, second: Any) -> None:
    arguments = {"input": tensor()} | second[1] | first[1]
    with pytest.raises((ValueError, TypeError)) as caught:
        quantize_and_dequantize_v4(arguments.pop("input"), **arguments)
    assert re.search(first[2], str(caught.value)), str(caught.value)
    assert isinstance(caught.value, TypeError) == (first[0] == "dtype")


def test_the_shape_of_a_range_is_checked_before_its_order() -> None:
    with pytest.raises(ValueError, match="scalar"):
        quantize_and_dequantize_v4(tensor(), **given([2], [1]))
    with pytest.raises(ValueError, match=r"2\b.*3\b"):
        quantize_and_dequantize_v4(tensor(), **given([2, 2], [1, 1], axis=0))


def test_ends_are_ignored_when_no_range_is_given() -> None:
    want = quantize_and_dequantize_v4(tensor())
    for lo, hi in ((1, -1), (NAN, NAN), ([1, 2], [[3]])):
        assert_same_bits(quantize_and_dequantize_v4(tensor(), f32(lo), f32(hi)), want)


# The gradient's checks

BAD_GRADIENT: list[tuple[str, tuple[int, ...], Any, Any, int, str]] = [
    ("axis", (3, 4), -1, 1, -2, r"axis.*-2"),
    ("rank", (3, 4), -1, 1, 2, r"axis"),
    ("shape", (3, 5), -1, 1, -1, r"gradients"),
    ("shape of the same size", (4, 3), -1, 1, -1, r"gradients"),
    ("vector with axis -1", (3, 4), [-1], [1], -1, r"input_min"),
    ("input_max is a vector with axis -1", (3, 4), -1, [1], -1, r"input_max"),
    ("matrix", (3, 4), [[-1]] * 3, [[1]] * 3, 0, r"input_min"),
    ("scalar with axis 0", (3, 4), -1, 1, 0, r"input_min"),
    ("length", (3, 4), [-1, -1], [1, 1], 0, r"input_min"),
    ("length of input_max", (3, 4), [-1] * 3, [1, 1], 0, r"input_max"),
    ("axis before shape", (3, 5), -1, 1, -2, r"axis"),
    ("rank before shape", (3, 5), -1, 1, 2, r"axis"),
    ("shape before range", (3, 5), [-1], [1], -1, r"gradients"),
]


@pytest.mark.parametrize(
    ("shape", "lo", "hi", "axis", "message"), [row[1:] for row in BAD_GRADIENT], ids=[row[0] for row in BAD_GRADIENT]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bad_gradient_argument(dtype: str, shape: tuple[int, ...], lo: Any, hi: Any, axis: int, message: str) -> None:
    ranges = (np.array(end, np.float64).astype(DTYPES[dtype])[()] for end in (lo, hi))
    with pytest.raises(ValueError, match=message):
        quantize_and_dequantize_v4_grad(tensor(dtype, shape), tensor(dtype), *ranges, axis=axis)


def test_gradient_of_another_dtype_is_an_error() -> None:
    for g, x in (("float64", "float32"), ("float32", "bfloat16")):
        with pytest.raises((ValueError, TypeError)):
            quantize_and_dequantize_v4_grad(tensor(g), tensor(x), f32(-1), f32(1))
    with pytest.raises(TypeError, match="int32"):
        quantize_and_dequantize_v4_grad(np.ones(3, np.int32), np.ones(3, np.int32), np.int32(0), np.int32(1))


# Arrays in, arrays out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (3, 4), (2, 3, 4, 5, 2)])
def test_result_is_a_new_array_of_the_same_shape_and_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    x = tensor(dtype, shape)
    got = quantize_and_dequantize_v4(x)
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.dtype) == (shape, DTYPES[dtype])
    assert got.flags.writeable
    assert not np.shares_memory(got, x)
    assert_same_bits(x, tensor(dtype, shape))
    assert_same_bits(got, reference.quantize_and_dequantize_v4(x), x)


def layouts(dtype: str) -> dict[str, np.ndarray]:
    """The same values in arrays that lie differently in memory."""
    x = tensor(dtype, (6, 8))
    wide = np.zeros((12, 16), DTYPES[dtype])
    wide[::2, ::2] = x
    reversed_copy = x[::-1, ::-1].copy()
    read_only = x.copy()
    read_only.flags.writeable = False
    raw = b"?" + x.tobytes()
    return {
        "contiguous": x,
        "Fortran order": np.asfortranarray(x),
        "every second": wide[::2, ::2],
        "negative strides": reversed_copy[::-1, ::-1],
        "transposed": x.T.copy().T,
        "read-only": read_only,
        "unaligned": np.frombuffer(raw, np.uint8)[1:].view(DTYPES[dtype]).reshape(x.shape),
    }


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("layout", layouts("float32"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_matter(dtype: str, layout: str, axis: int) -> None:
    x = layouts(dtype)[layout]
    before = x.copy()
    got = quantize_and_dequantize_v4(x, num_bits=4, axis=axis)
    assert_same_bits(got, reference.quantize_and_dequantize_v4(before, num_bits=4, axis=axis), before)
    assert_same_bits(x, before)
    lo, hi = np.array([-3, 5]).astype(DTYPES[dtype])
    g = layouts(dtype)["contiguous"]
    got, _, _ = quantize_and_dequantize_v4_grad(g, x, *(_ranges(lo, hi, before, axis)), axis=axis)
    want, _, _ = reference.quantize_and_dequantize_v4_grad(g, before, *(_ranges(lo, hi, before, axis)), axis=axis)
    assert_same_bits(got, want, before)


def _ranges(lo: Any, hi: Any, x: np.ndarray, axis: int) -> tuple[Any, Any]:
    return (lo, hi) if axis == -1 else (np.full(x.shape[axis], lo), np.full(x.shape[axis], hi))


def test_broadcast_input_is_taken_as_it_looks() -> None:
    x = np.broadcast_to(tensor(shape=(4,)), (3, 4))
    assert_same_bits(quantize_and_dequantize_v4(x), reference.quantize_and_dequantize_v4(x.copy()))


def test_ends_may_be_python_numbers_zero_d_arrays_or_lists() -> None:
    x = tensor()
    want = quantize_and_dequantize_v4(x, np.float32(-2.5), np.float32(3), range_given=True)
    for ranges in ((-2.5, 3), (np.array(-2.5, np.float32), np.array(3.0, np.float32))):
        assert_same_bits(quantize_and_dequantize_v4(x, *ranges, range_given=True), want)
    lows, highs = np.full(3, -2.5, np.float32), np.full(3, 3.0, np.float32)
    want = quantize_and_dequantize_v4(x, lows, highs, range_given=True, axis=0)
    assert_same_bits(quantize_and_dequantize_v4(x, lows.tolist(), highs.tolist(), range_given=True, axis=0), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_are_rounded_to_the_dtype_of_the_tensor(dtype: str) -> None:
    x = np.array([0.1, 0.05, -0.1, 0.3]).astype(DTYPES[dtype])
    ranges = np.array([-0.1, 0.1]).astype(DTYPES[dtype])
    want = reference.quantize_and_dequantize_v4(x, *ranges, range_given=True)
    assert_same_bits(quantize_and_dequantize_v4(x, -0.1, 0.1, range_given=True), want, x)
    got, min_backprop, max_backprop = quantize_and_dequantize_v4_grad(x, x, -0.1, 0.1)
    want, *_ = reference.quantize_and_dequantize_v4_grad(x, x, *ranges)
    assert_same_bits(got, want, x)
    assert min_backprop.dtype == max_backprop.dtype == DTYPES[dtype]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_bits", 8.5), ("num_bits", "8"), ("axis", 0.5), ("axis", None), ("round_mode", None), ("round_mode", "")],
)
def test_an_attribute_of_another_type_is_an_error(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        quantize_and_dequantize_v4(tensor(), **{name: value})


@pytest.mark.parametrize("value", ["False", "True", 0, 1, 0.0, [], np.array([True])])
@pytest.mark.parametrize("name", ["signed_input", "narrow_range", "range_given"])
def test_a_boolean_attribute_takes_booleans_only(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*; it must be True or False"):
        quantize_and_dequantize_v4(tensor(), -1, 1, **{name: value})


def test_a_boolean_attribute_may_be_numpy_s_or_none_for_the_default() -> None:
    want = quantize_and_dequantize_v4(tensor(), num_bits=3, narrow_range=True)
    got = quantize_and_dequantize_v4(tensor(), signed_input=None, num_bits=3, narrow_range=np.bool_(True))
    assert_same_bits(got, want, tensor(), "narrow range")


@pytest.mark.parametrize("end", ["-1", True, -1j, np.array("2020-01-01", "M8[D]"), [object()]])
def test_the_ends_of_a_range_are_real_numbers(end: Any) -> None:
    with pytest.raises(ValueError, match=r"input_min is .*; it must be a real number"):
        quantize_and_dequantize_v4(tensor(), end, 1, range_given=True)
    with pytest.raises(ValueError, match=r"input_min is .*; it must be a real number"):
        quantize_and_dequantize_v4_grad(tensor(), tensor(), end, 1)
    with pytest.raises(ValueError, match=r"input_min is .*; it must be a real number"):
        quantize_and_measure(tensor(), given_range=(end, 1))
    with pytest.raises(ValueError, match=r"input_min is .*; it must be a real number"):
        QuantSpec(given_range=(end, 1))


def test_the_ends_of_a_range_may_be_integers_of_any_size() -> None:
    got = quantize_and_dequantize_v4(tensor(), -(10**30), 10**30, range_given=True)
    assert_same_bits(got, quantize_and_dequantize_v4(tensor(), -1e30, 1e30, range_given=True), tensor(), "1e30")


def test_attributes_may_be_numpy_integers() -> None:
    got = quantize_and_dequantize_v4(tensor(), num_bits=np.int64(5), axis=np.int32(1))
    assert_same_bits(got, reference.quantize_and_dequantize_v4(tensor(), num_bits=5, axis=1))


class OnlyArray:
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return tensor()


class OnlyDLPack:
    def __dlpack__(self, **arguments: Any) -> Any:
        return tensor().__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return tensor().__dlpack_device__()


@pytest.mark.parametrize("kind", [OnlyArray, OnlyDLPack])
def test_anything_with_array_or_dlpack_is_taken(kind: Any) -> None:
    assert_same_bits(quantize_and_dequantize_v4(kind()), reference.quantize_and_dequantize_v4(tensor()))


def test_a_byte_swapped_array_is_never_read_as_if_it_were_native() -> None:
    x = tensor()
    swapped = x.astype(x.dtype.newbyteorder())
    try:
        got = quantize_and_dequantize_v4(swapped)
    except (TypeError, ValueError):
        return
    np.testing.assert_array_equal(np.asarray(got, np.float32), quantize_and_dequantize_v4(x))


def test_positional_order_is_the_op_s_own() -> None:
    x = tensor()
    got = quantize_and_dequantize_v4(x, f32(-2), f32(3), False, 4, True, "HALF_UP", False, -1, "native")
    want = reference.quantize_and_dequantize_v4(
        x, f32(-2), f32(3), signed_input=False, num_bits=4, range_given=True, round_mode="HALF_UP"
    )
    assert_same_bits(got, want, x)
