"""The public API against the slow oracle, bit for bit: every attribute, drawn values, and all patterns of 16 bits.

QDQ_HYPOTHESIS_EXAMPLES=N draws N examples per test, other ones on each run.
"""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from tests import reference
from tests.op.bits import UINTS, assert_same_bits

EXAMPLES = os.environ.get("QDQ_HYPOTHESIS_EXAMPLES")
drawn = settings(
    max_examples=int(EXAMPLES or 150),
    derandomize=EXAMPLES is None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

DTYPES: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
COMPUTED = [
    ("bfloat16", "native"),
    ("bfloat16", "float32"),
    ("float16", "native"),
    ("float16", "float32"),
    ("float32", "native"),
    ("float64", "native"),
    ("float64", "float32"),  # no effect: a float64 tensor is never computed in float32
]


# Drawing: bit patterns, because they print exactly and reach what decimal numbers do not


def to_bits(value: float, dtype: np.dtype[Any]) -> int:
    with np.errstate(all="ignore"):
        return int(np.array([value], np.float64).astype(dtype).view(UINTS[dtype.itemsize])[0])


def specials(dtype: np.dtype[Any]) -> list[int]:
    """Zeros, infinities, NaN, and the neighbours of every threshold of the format."""
    fmt = reference.FORMATS[dtype.name]
    smallest_subnormal, tiny, largest = 1, to_bits(fmt.tiny, dtype), to_bits(fmt.max, dtype)
    positive = [
        0,
        smallest_subnormal,
        tiny // 2,
        tiny - 1,
        tiny,
        tiny + 1,
        largest - 1,
        largest,
        to_bits(math.inf, dtype),
        to_bits(math.nan, dtype),
        *(to_bits(v, dtype) for v in (0.5, 1, 2, 127, 128, 255, 1 / 3)),
    ]
    sign_bit = 1 << (8 * dtype.itemsize - 1)
    return positive + [bits | sign_bit for bits in positive]


def elements(dtype: np.dtype[Any]) -> dict[str, st.SearchStrategy[int]]:
    """Kinds of tensors, by strategies of one element."""
    fmt = reference.FORMATS[dtype.name]
    any_pattern = st.integers(0, 2 ** (8 * dtype.itemsize) - 1)
    weights = st.floats(-4, 4, allow_subnormal=False).map(lambda v: to_bits(v, dtype))
    # With a power of two as scale, odd multiples of 1/2 are ties; 1/64 keeps small numbers of bits busy too.
    ties = st.integers(-600, 600).map(lambda i: to_bits(i / 2, dtype))
    fine_ties = st.integers(-600, 600).map(lambda i: to_bits(i / 64, dtype))
    # Around the flush: a few binades either side of the smallest normal number.
    small = st.tuples(st.integers(-255, 255), st.integers(-12, 12)).map(
        lambda pair: to_bits(math.ldexp(pair[0], fmt.min_exponent - 7 + pair[1]), dtype)
    )
    near_flush = st.integers(-300, 300).map(lambda i: to_bits(math.ldexp(i / 128, fmt.min_exponent), dtype))
    huge = st.integers(-255, 255).map(lambda i: to_bits(fmt.max / 255 * i, dtype))
    special = st.sampled_from(specials(dtype))
    return {
        "weights": weights,
        "ties": ties,
        "fine ties": fine_ties,
        "small": small,
        "near flush": near_flush,
        "huge": huge,
        "mixed finite": st.one_of(weights, ties, small, huge),
        "special": special,
        "anything": st.one_of(any_pattern, special, weights, ties),
    }


def num_bits_for(signed_input: bool) -> st.SearchStrategy[int]:
    highest = 61 if signed_input else 62
    edges = [10, 11, 12, 15, 16, 17, 23, 24, 25, 26, 31, 32, 33, 52, 53, 54, 55, 60, highest - 1, highest]
    return st.one_of(st.integers(1, 9), st.sampled_from([2, 3, 4, 8]), st.sampled_from(edges), st.integers(1, highest))


shapes = st.one_of(
    st.lists(st.integers(1, 24), min_size=1, max_size=1),
    st.lists(st.integers(1, 6), min_size=2, max_size=2),
    st.lists(st.integers(0, 3), max_size=4),
).map(tuple)


@dataclass(frozen=True)
class Call:
    """The arguments of one call; prints as code that makes it again."""

    dtype: str
    shape: tuple[int, ...]
    input_bits: tuple[int, ...]
    attrs: dict[str, Any]
    min_bits: tuple[int, ...] = ()
    max_bits: tuple[int, ...] = ()
    gradient_bits: tuple[int, ...] = ()

    def _array(self, bits: tuple[int, ...]) -> np.ndarray:
        dtype = DTYPES[self.dtype]
        return np.array(bits, UINTS[dtype.itemsize]).view(dtype)

    @property
    def input(self) -> np.ndarray:
        return self._array(self.input_bits).reshape(self.shape)

    @property
    def gradients(self) -> np.ndarray:
        return self._array(self.gradient_bits).reshape(self.shape)

    @property
    def ranges(self) -> tuple[Any, Any]:
        """None, NumPy scalars, or vectors."""
        if not self.attrs.get("range_given", True):
            return None, None
        lo, hi = self._array(self.min_bits), self._array(self.max_bits)
        return (lo[0], hi[0]) if self.attrs["axis"] == -1 else (lo, hi)


def ordered(pair: tuple[int, int], dtype: np.dtype[Any]) -> tuple[int, int]:
    """The pair with the smaller value first; as drawn if equal, so that (0, -0) remains."""
    a, b = (float(np.array([bits], UINTS[dtype.itemsize]).view(dtype)[0]) for bits in pair)
    return pair if a <= b else (pair[1], pair[0])


@st.composite
def calls(draw: st.DrawFn, dtype_name: str, compute_dtype: str, *, grad: bool = False) -> Call:
    dtype = DTYPES[dtype_name]
    shape = draw(shapes)
    axis = draw(st.integers(-1, len(shape) - 1))
    element = elements(dtype)[draw(st.sampled_from(list(elements(dtype))))]
    size = math.prod(shape)
    values = draw(st.lists(element, min_size=size, max_size=size))
    num_slices = 1 if axis == -1 else shape[axis]
    one_end = st.one_of(element, *elements(dtype).values())
    pairs = st.lists(st.tuples(one_end, one_end), min_size=num_slices, max_size=num_slices)
    if grad:
        ranges = draw(pairs)  # a reversed range and a NaN end are legal here
        gradients = draw(st.lists(elements(dtype)["anything"], min_size=size, max_size=size))
        return Call(dtype_name, shape, tuple(values), {"axis": axis}, *_split(ranges), tuple(gradients))
    signed_input = draw(st.booleans())
    attrs = {
        "signed_input": signed_input,
        "num_bits": draw(num_bits_for(signed_input)),
        "range_given": draw(st.booleans()),
        "round_mode": draw(st.sampled_from(["HALF_TO_EVEN", "HALF_UP"])),
        "narrow_range": draw(st.booleans()),
        "axis": axis,
        "compute_dtype": compute_dtype,
    }
    if not attrs["range_given"]:
        return Call(dtype_name, shape, tuple(values), attrs)
    one_end = one_end.filter(lambda bits: not is_nan(bits, dtype))
    drawn_pairs = st.one_of(
        st.tuples(one_end, one_end).map(lambda pair: ordered(pair, dtype)),
        one_end.map(lambda bits: (bits, bits)),
        scale_of_power_of_two(dtype, attrs["num_bits"]),
        scale_near_flush(dtype, attrs["num_bits"]),
    )
    ranges = draw(st.lists(drawn_pairs, min_size=num_slices, max_size=num_slices))
    return Call(dtype_name, shape, tuple(values), attrs, *_split(ranges))


def _split(pairs: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(lo for lo, _ in pairs), tuple(hi for _, hi in pairs)


def is_nan(bits: int, dtype: np.dtype[Any]) -> bool:
    return bool(np.isnan(np.array([bits], UINTS[dtype.itemsize]).view(dtype)[0]))


def scale_of_power_of_two(dtype: np.dtype[Any], num_bits: int) -> st.SearchStrategy[tuple[int, int]]:
    """Ranges whose step is a power of two, so that the ties among the elements are exact ties."""
    fmt = reference.FORMATS[dtype.name]

    def pair(exponent: int) -> tuple[int, int]:
        hi = min(math.ldexp(max(2 ** (num_bits - 1) - 1, 1), exponent), fmt.max)
        return to_bits(-hi, dtype), to_bits(hi, dtype)

    return st.integers(-6, 2).map(pair)


def scale_near_flush(dtype: np.dtype[Any], num_bits: int) -> st.SearchStrategy[tuple[int, int]]:
    """Ranges with steps of a few times the smallest normal number: whether an element is flushed shows."""
    fmt = reference.FORMATS[dtype.name]

    def pair(steps: int) -> tuple[int, int]:
        hi = min(math.ldexp(steps / 64, fmt.min_exponent) * max(2 ** (num_bits - 1) - 1, 1), fmt.max)
        return to_bits(-hi, dtype), to_bits(hi, dtype)

    return st.integers(16, 300).map(pair)


# The comparison


def assert_api_equals_oracle(call: Call) -> None:
    x = call.input
    with np.errstate(all="ignore"):
        got = quantize_and_dequantize_v4(x, *call.ranges, **call.attrs)
        want = reference.quantize_and_dequantize_v4(call.input, *call.ranges, **call.attrs)
    assert_same_bits(got, want, call.input, call)
    assert x.tobytes() == call.input.tobytes(), "the input was changed"


@pytest.mark.parametrize(("dtype", "compute_dtype"), COMPUTED)
def test_op_equals_oracle(dtype: str, compute_dtype: str) -> None:
    @drawn
    @given(calls(dtype, compute_dtype))
    def run(call: Call) -> None:
        assert_api_equals_oracle(call)

    run()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_equals_oracle(dtype: str) -> None:
    @drawn
    @given(calls(dtype, "native", grad=True))
    def run(call: Call) -> None:
        x, g = call.input, call.gradients
        got = quantize_and_dequantize_v4_grad(g, x, *call.ranges, **call.attrs)
        want = reference.quantize_and_dequantize_v4_grad(call.gradients, call.input, *call.ranges, **call.attrs)
        for got_one, want_one in zip(got, want, strict=True):
            assert_same_bits(np.asarray(got_one), want_one, call.input, call)
        assert x.tobytes() == call.input.tobytes()
        assert g.tobytes() == call.gradients.tobytes()

    run()


# Tensors beyond one vector, one chunk and one block of channels: the size is the point, so values are plain

LAYOUTS = [((4_099,), -1), ((3, 1_031), 0), ((1_031, 3), 1), ((7, 33, 17), 1), ((2, 5, 3, 67), 2), ((65, 67), -1)]


@pytest.mark.parametrize(("dtype", "compute_dtype"), COMPUTED[:-1])
def test_op_equals_oracle_on_larger_layouts(dtype: str, compute_dtype: str) -> None:
    for seed, (shape, axis) in enumerate(LAYOUTS):
        range_given = (seed + COMPUTED.index((dtype, compute_dtype))) % 2 == 0
        random = np.random.default_rng(seed)
        x = random.standard_normal(shape)
        x.flat[:: max(1, x.size // 11)] *= 1e-3
        x.flat[5] = math.nan
        size = 1 if axis == -1 else shape[axis]
        lo, hi = -random.uniform(0.1, 3, size), random.uniform(0.1, 3, size)
        ranges = [end.astype(DTYPES[dtype]) for end in (lo, hi)]
        if axis == -1:
            ranges = [end[0] for end in ranges]
        attrs = {
            "num_bits": (4, 11, 8)[seed % 3],
            "round_mode": ("HALF_TO_EVEN", "HALF_UP")[seed % 2],
            "range_given": range_given,
            "axis": axis,
            "compute_dtype": compute_dtype,
            "signed_input": seed < 4,
        }
        tensor = x.astype(DTYPES[dtype])
        given_ranges = ranges if range_given else [None, None]
        got = quantize_and_dequantize_v4(tensor, *given_ranges, **attrs)
        want = reference.quantize_and_dequantize_v4(tensor, *given_ranges, **attrs)
        assert_same_bits(got, want, tensor, f"shape {shape}, {attrs}, seed {seed}")


# Tensors so large that threads share them. Each channel is made of few values, so that the oracle need only see those;
# the ones that decide its range stand once, at a random place.

FEW = 40
SPLIT = [((400_003,), -1), ((3, 150_001), 0), ((1_500, 301), 0), ((150_001, 3), 1), ((5, 130, 613), 1)]


def spread(shape: tuple[int, ...], axis: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Few values per channel (channels, FEW); for every element of the tensor its column there; channels."""
    channels = 1 if axis == -1 else shape[axis]
    few = random.standard_normal((channels, FEW)) * random.uniform(0.5, 2, (channels, 1))
    few[:, 2:12:3] *= 1e-3
    few[0, 12:15] = [-0.0, 0.0, math.nan]
    few[:, :2] = np.stack([few.min(axis=1, where=few == few, initial=0) - 0.3, np.nanmax(few, axis=1) + 0.2], axis=1)
    columns = random.integers(2, FEW, shape)
    by_channel = columns.reshape(1, -1) if axis == -1 else np.moveaxis(columns, axis, 0).reshape(channels, -1)
    size = by_channel.shape[1]
    positions = np.sort(random.integers(0, size // 2, (channels, 2)))
    positions[:, 1] += size // 2
    places = (np.arange(channels)[:, None], positions)
    if axis == -1:
        columns.reshape(-1)[positions[0]] = [0, 1]
    else:
        by_channel = by_channel.copy()
        by_channel[places] = [0, 1]
        others = [n for i, n in enumerate(shape) if i != axis]
        columns = np.moveaxis(by_channel.reshape(channels, *others), 0, axis)
    return few, columns, channels


def gather(few: np.ndarray, columns: np.ndarray, axis: int) -> np.ndarray:
    if axis == -1:
        return few[0][columns]
    along = [-1 if i == axis else 1 for i in range(columns.ndim)]
    return few[np.arange(len(few)).reshape(along), columns]


@pytest.mark.parametrize(("shape", "axis"), SPLIT, ids=str)
@pytest.mark.parametrize(("dtype", "compute_dtype"), COMPUTED[:-1])
def test_op_equals_oracle_on_tensors_that_threads_share(
    dtype: str, compute_dtype: str, shape: tuple[int, ...], axis: int
) -> None:
    random = np.random.default_rng(len(shape) + axis)
    few, columns, channels = spread(shape, axis, random)
    small = few.astype(DTYPES[dtype])
    checked = np.unique(np.linspace(0, channels - 1, 30).astype(int))  # of many channels; the oracle is slow
    attrs: dict[str, Any] = {"num_bits": 6, "compute_dtype": compute_dtype}
    large = gather(small, columns, axis)
    got = quantize_and_dequantize_v4(large, axis=axis, **attrs)
    want = reference.quantize_and_dequantize_v4(small[checked], axis=0, **attrs)
    if axis >= 0:
        got, large, columns = (np.take(a, checked, axis) for a in (got, large, columns))
    assert_same_bits(got, gather(want, columns, axis), large, f"shape {shape}, axis {axis}")


def test_concurrent_calls_do_not_disturb_each_other() -> None:
    few, columns, _ = spread((300_000,), -1, np.random.default_rng(3))
    large = gather(few.astype(np.float32), columns, -1)
    want = [quantize_and_dequantize_v4(large, num_bits=bits) for bits in range(2, 10)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda bits: quantize_and_dequantize_v4(large, num_bits=bits), range(2, 10)))
    for got_one, want_one in zip(got, want, strict=True):
        assert_same_bits(got_one, want_one, large)


# Every value of 16 bits


def all_patterns(dtype: str) -> np.ndarray:
    return np.arange(65_536).astype(np.uint16).view(DTYPES[dtype])


def assert_same_on_all_patterns(dtype: str, ranges: tuple[float, float] | None, **attrs: Any) -> None:
    """With a given range, all 65,536 patterns; measured, those that are finite and at most 300 in magnitude."""
    x = all_patterns(dtype)
    lo_hi: tuple[Any, Any] = (None, None)
    if ranges is None:
        with np.errstate(invalid="ignore"):
            x = x[np.abs(x.astype(np.float64)) <= 300]
    else:
        lo, hi = np.array(ranges).astype(DTYPES[dtype])
        lo_hi = (lo, hi)
    attrs["range_given"] = ranges is not None
    got = quantize_and_dequantize_v4(x, *lo_hi, **attrs)
    want = reference.quantize_and_dequantize_v4(x, *lo_hi, **attrs)
    assert_same_bits(got, want, x, f"ends {ranges}, {attrs}")


EXHAUSTIVE: dict[str, tuple[tuple[float, float] | None, dict[str, Any]]] = {
    "given": ((-1.0, 1.5), {"num_bits": 8, "round_mode": "HALF_TO_EVEN"}),
    "given half up unsigned": ((-6.0, 3.0), {"num_bits": 4, "round_mode": "HALF_UP", "signed_input": False}),
    "measured half up": (None, {"num_bits": 11, "round_mode": "HALF_UP", "narrow_range": True}),
}


@pytest.mark.parametrize(
    ("kind", "dtype", "compute_dtype"),
    [
        ("given", "bfloat16", "native"),
        ("given", "float16", "float32"),
        ("given half up unsigned", "bfloat16", "float32"),
        ("given half up unsigned", "float16", "native"),
        ("measured half up", "bfloat16", "native"),
        ("measured half up", "float16", "float32"),
    ],
)
def test_op_equals_oracle_on_every_16_bit_value(kind: str, dtype: str, compute_dtype: str) -> None:
    ranges, attrs = EXHAUSTIVE[kind]
    assert_same_on_all_patterns(dtype, ranges, compute_dtype=compute_dtype, **attrs)


@pytest.mark.slow
@pytest.mark.parametrize("num_bits", range(1, 17))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_op_equals_oracle_on_every_16_bit_value_and_number_of_bits(dtype: str, num_bits: int) -> None:
    for i, (compute_dtype, round_mode) in enumerate(
        itertools.product(["native", "float32"], ["HALF_TO_EVEN", "HALF_UP"])
    ):
        signed_input = (i + num_bits) % 2 == 0
        ranges = [(-1.0, 1.0), (-0.3, 7.0), (-300.0, 11.0), None][(i + num_bits // 2) % 4]
        assert_same_on_all_patterns(
            dtype,
            ranges,
            num_bits=num_bits,
            signed_input=signed_input,
            round_mode=round_mode,
            compute_dtype=compute_dtype,
        )
