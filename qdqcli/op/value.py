"""The op on one value: codecs, range to qparams, value to value. Arithmetic only; no arrays, no loops.

Two types parametrize every function, so that one implementation serves all dtypes:

- the storage: float32 and float64 are themselves, int16 holds the bits of a bfloat16, uint16 those of a float16;
- `compute_type`, a number whose type names the arithmetic: float32, float64, int16 (every operation rounded to
  bfloat16) or uint16 (to float16). 16-bit arithmetic happens in float32 and is rounded after each operation, which
  loses nothing: float32 has more than twice their digits.

Compare instead of min and max: two-argument `min` drops a NaN on some targets. Every line is one IEEE operation and
must not be contracted into a fused multiply-add: CUDA's compiler does that unless the sum is `primitives.add`.

Source: TensorFlow 2.21, QuantizeAndDequantizeV4, as probed; `tests/reference.py` is the independent oracle.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from qdqcli.op.jit.kernel import StaticBool
from qdqcli.op.jit.register import inlined, overload
from qdqcli.op.primitives import (
    Number,
    add,
    bits_of,
    constant,
    converts_halves,
    float32_of,
    float32_of_half,
    float64_of,
    floor,
    half_of_float32,
    narrow,
    rint,
    select,
    widen,
)

# ------------------------------------------------------------------ bfloat16 and float16 as bits


@inlined
def decode_bfloat16(bits: Number) -> Number:
    """Decode a bfloat16 pattern to float32."""
    return float32_of(bits << 16)


@inlined
def encode_bfloat16_number(v: Number) -> Number:
    """Encode a float32 as a bfloat16 pattern, half to even; a NaN with low 16 bits 0 stays NaN."""
    bits = bits_of(v)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@inlined
def encode_bfloat16(v: Number) -> Number:
    """Encode a float32 as a bfloat16 pattern, half to even; NaN becomes the positive quiet NaN."""
    return select(v == v, encode_bfloat16_number(v), 0x7FC0)


@inlined
def round_bfloat16(v: Number) -> Number:
    """Round a float32 to bfloat16, still as float32."""
    return decode_bfloat16(encode_bfloat16(v))


@inlined
def decode_float16(bits: Number) -> Number:
    """Decode a float16 pattern to float32, for targets without F16C instructions.

    The exponent is rebiased by an addition, twice for infinities and NaN; subnormals are normalized by an exact
    subtraction.
    """
    magnitude = (bits & 0x7FFF) << 13
    exponent = magnitude & 0x0F800000
    normal = select(exponent == 0x0F800000, magnitude + 0x70000000, magnitude + 0x38000000)
    subnormal = float32_of(magnitude + 0x38800000) - float32_of((bits & 0) + 0x38800000)
    return float32_of(select(exponent == 0, bits_of(subnormal), normal) | ((bits & 0x8000) << 16))


@inlined
def round_float16(v: Number) -> Number:
    """Round a float32 to float16, half to even, still as float32; infinite beyond 65504, subnormals kept.

    Adding 2^13 times the power of two below |v| pushes the digits that float16 lacks off the end of a float32.
    """
    bits = bits_of(v)
    exponent = bits & 0x7F800000
    exponent = select(exponent < 0x38800000, 0x38800000, select(exponent > 0x47800000, 0x47800000, exponent))
    magic = float32_of(exponent + 0x06800000)
    rounded = add(float32_of(bits & 0x7FFFFFFF), magic) - magic
    rounded = select(rounded > constant(65504.0, v), constant(np.inf, v), rounded)
    return float32_of(bits_of(rounded) | (bits & -0x80000000))


@inlined
def encode_float16_number(v: Number) -> Number:
    """Encode a float32 as a float16 pattern, half to even; a NaN may become infinite."""
    bits = bits_of(round_float16(v))
    magnitude = bits & 0x7FFFFFFF
    half = constant(0.5, v)
    subnormal = bits_of(add(float32_of(magnitude), half)) - bits_of(half)
    normal = select(magnitude > 0x7F7FFFFF, 0x7C00, (magnitude - 0x38000000) >> 13)
    return select(magnitude < 0x38800000, subnormal, normal) | ((bits >> 16) & 0x8000)


@inlined
def encode_float16(v: Number) -> Number:
    """Encode a float32 as a float16 pattern, half to even; NaN becomes the positive quiet NaN."""
    return select(v == v, encode_float16_number(v), 0x7E00)


@inlined
def encode_half(v: Number) -> Number:
    """`encode_float16` by an instruction, see `converts_halves`."""
    return select(v == v, half_of_float32(v), 0x7E00)


@inlined
def canonical(v: Number) -> Number:
    """Canonicalize NaN: which payload survives an operation differs between processors."""
    return select(v == v, v, constant(np.nan, v))


@inlined
def identity(v: Number) -> Number:
    """Return `v`."""
    return v


# ------------------------------------------------------------------ what depends on the storage or on `compute_type`

Unary = Callable[[Number], Number]


class _Format(NamedTuple):
    """A dtype as storage and as arithmetic. Patterns of 16-bit floats are wide integers; others are values."""

    decode: Unary
    """Pattern to value."""
    encode: Unary
    """Value to pattern, half to even."""
    encode_number: Unary
    """The same, but NaN is not canonicalized and may become infinity."""
    round_to: Unary
    """Rounds the result of an operation."""
    min_normal: np.floating
    """Smallest normal number; 0 for float16, which is never flushed."""
    max_finite: np.floating


_FORMATS = {
    "float32": _Format(
        identity, canonical, identity, identity, np.float32(2.0**-126), np.finfo(np.float32).max,
    ),
    "float64": _Format(
        identity, canonical, identity, identity, np.float64(2.0**-1022), np.finfo(np.float64).max,
    ),
    "int16": _Format(
        decode_bfloat16, encode_bfloat16, encode_bfloat16_number, round_bfloat16,
        np.float32(2.0**-126), np.uint32(0x7F7F0000).view(np.float32),
    ),
    "uint16": _Format(
        decode_float16, encode_float16, encode_float16_number, round_float16, np.float32(0.0), np.float32(65504.0),
    ),
}  # fmt: skip
"""By the name of the type that stands for it."""
_HALVES = _FORMATS["uint16"]._replace(decode=float32_of_half, encode=encode_half, encode_number=half_of_float32)


def _format(number: Number) -> _Format:
    """Return the format that a number stands for, or a Numba type: of a vector, its scalar."""
    kind: Any = number.dtype if hasattr(number, "dtype") else getattr(number, "scalar", number)
    return _HALVES if converts_halves(number) else _FORMATS[kind.name]


def _by_format(field: str) -> Callable[[Number, Number], Number]:
    """Return `function(v, kind)`, which applies a function of the format that `kind` stands for."""

    def function(v: Number, kind: Number) -> Number:
        return getattr(_format(kind), field)(v)

    @overload(function)
    def _typed(v, kind):
        convert = getattr(_format(kind), field)
        return lambda v, kind: convert(v)

    return function


pattern = _by_format("encode")
"""pattern(v, stored): round `v` to the type of `stored`, half to even: a 16-bit float's bits as a wide integer."""
number_pattern = _by_format("encode_number")
"""Like `pattern`, but NaN is not canonicalized and may become infinity: the caller checks, once for many."""
value_of_pattern = _by_format("decode")
"""value_of_pattern(wide, stored): decode a `pattern`; decoding the stored element would widen it again."""
round_to = _by_format("round_to")
"""round_to(v, compute_type): round the result of an operation to the arithmetic's dtype."""


def min_normal(compute_type: Number) -> Number:
    """Smallest normal number of the arithmetic; 0 for float16, which is never flushed."""
    return _format(compute_type).min_normal


@overload(min_normal)
def _min_normal(compute_type):
    number = _format(compute_type).min_normal
    return lambda compute_type: number


def max_finite(compute_type: Number) -> Number:
    """Largest finite number of the arithmetic."""
    return _format(compute_type).max_finite


@overload(max_finite)
def _max_finite(compute_type):
    number = _format(compute_type).max_finite
    return lambda compute_type: number


@inlined
def decode(stored: Number) -> Number:
    """Decode a stored element to float32 (to float64 for float64)."""
    return value_of_pattern(widen(stored), stored)


@inlined
def encode(v: Number, stored: Number) -> Number:
    """Encode `v` in the type of `stored`, rounded half to even."""
    return narrow(pattern(v, stored), stored)


@inlined
def stored_value(v: Number, stored: Number) -> Number:
    """Round `v` to the type of `stored`, as a value; NaN may become infinity."""
    return value_of_pattern(number_pattern(v, stored), stored)


# ------------------------------------------------------------------ order


def order_key(bits: Number) -> Number:
    """Map a float's pattern to an int16, int32 or int64 in the order of the floats; its own inverse.

    -0 is below +0; a NaN is beyond the infinity of its sign.
    """
    last = 8 * bits.dtype.itemsize - 1
    return bits ^ ((bits >> last) & (2**last - 1))


@overload(order_key)
def _order_key(bits):
    last = getattr(bits, "scalar", bits).bitwidth - 1
    magnitude = 2**last - 1
    return lambda bits: bits ^ ((bits >> last) & magnitude)


def value_of_key(key: Number, stored: Number) -> Number:
    """Return the value with this order key among elements of the type of `stored`."""
    pattern_type = np.dtype(f"i{stored.dtype.itemsize}").type
    return decode(order_key(pattern_type(key)).view(stored.dtype))


@overload(value_of_key)
def _value_of_key(key, stored):
    if stored == types.float32:
        return lambda key, stored: float32_of(order_key(np.int32(key)))
    if stored == types.float64:
        return lambda key, stored: float64_of(order_key(np.int64(key)))
    convert = _format(stored).decode
    return lambda key, stored: convert(order_key(np.int16(key)))


# ------------------------------------------------------------------ range to qparams


@inlined
def flush(v: Number, compute_type: Number) -> Number:
    """Flush a subnormal to a zero of the same sign."""
    return select(abs(v) < min_normal(compute_type), v * constant(0.0, v), v)


@inlined
def quotient(a: Number, b: Number, compute_type: Number) -> Number:
    """Return a / b, correctly rounded, then flushed.

    A quotient that is rounded up to the smallest normal number only by the coarser spacing of subnormals is flushed
    too; the product that detects it is exact, because one of its factors is a power of two. It is made only where it
    decides, which is where |b| >= 1: elsewhere it is subnormal, for which processors take longer than for all the rest.
    """
    q = round_to(a / b, compute_type)
    smallest = abs(q) == min_normal(compute_type)
    subnormal = smallest & (abs(a) < abs(select(smallest, b, constant(0.0, b))) * min_normal(compute_type))
    return select(subnormal, q * constant(0.0, q), flush(q, compute_type))


@inlined
def qparams_of_range(
    lo: Number, hi: Number, q_min: Number, q_max: Number, compute_type: Number
) -> tuple[Number, Number, Number, Number]:
    """Return the representable range and the scales of a slice: (min_range, max_range, scale, inverse_scale).

    `scale` is in the op's sense, steps per unit; its inverse is computed by a separate division. The end that does not
    determine the scale moves to where its code lies. `lo` and `hi` must be flushed; a slice of NaN only gives NaN ends
    and the largest scale.
    """
    scale_min = select(
        round_to(q_min * lo, compute_type) > constant(0.0, lo),
        quotient(q_min, lo, compute_type),
        max_finite(compute_type),
    )
    scale_max = select(
        round_to(q_max * hi, compute_type) > constant(0.0, hi),
        quotient(q_max, hi, compute_type),
        max_finite(compute_type),
    )
    by_min = scale_min < scale_max  # strictly: a tie takes the other side
    inverse = quotient(select(by_min, lo, hi), select(by_min, q_min, q_max), compute_type)
    moved = round_to(select(by_min, q_max, q_min) * inverse, compute_type)
    return select(by_min, lo, moved), select(by_min, moved, hi), select(by_min, scale_min, scale_max), inverse


@inlined
def needs_flush(lo: Number, hi: Number, scale: Number, range_given: bool, compute_type: Number) -> Number:
    """True where subnormal elements of the slice can matter: only with a huge scale or a bound at zero."""
    zero = constant(0.0, lo)
    huge = scale >= constant(0.25, lo) / min_normal(compute_type)
    return (min_normal(compute_type) > zero) & (huge | (range_given & ((lo == zero) | (hi == zero))))


@inlined
def is_degenerate(scale: Number, compute_type: Number) -> Number:
    """True where the scale is 0, infinite, NaN or the dtype's maximum: the range gives no usable scale."""
    return (scale <= constant(0.0, scale)) | (scale >= max_finite(compute_type)) | (scale != scale)


# ------------------------------------------------------------------ value to value


@inlined
def clamp(v: Number, lo: Number, hi: Number) -> Number:
    """Clamp `v`, the upper bound first; NaN is kept, and a NaN bound has no effect."""
    v = select(hi < v, hi, v)
    return select(v < lo, lo, v)


@inlined
def quantize_half_to_even(v: Number, scale: Number, inverse: Number, compute_type: Number) -> Number:
    """Quantize and dequantize, ties to the even code."""
    return round_to(rint(round_to(v * scale, compute_type)) * inverse, compute_type)


@inlined
def quantize_half_up(v: Number, scale: Number, inverse: Number, compute_type: Number) -> Number:
    """Quantize and dequantize, code = floor(p + 0.5) with the sum rounded in the arithmetic's dtype."""
    p = round_to(v * scale, compute_type)
    return round_to(floor(round_to(add(p, constant(0.5, v)), compute_type)) * inverse, compute_type)


@inlined
def fake_quantize(v: Number, scale: Number, inverse: Number, half_up: StaticBool, compute_type: Number) -> Number:
    """Quantize and dequantize; the round mode is HALF_UP if `half_up` is set, else HALF_TO_EVEN."""
    if half_up is not None:
        return quantize_half_up(v, scale, inverse, compute_type)
    return quantize_half_to_even(v, scale, inverse, compute_type)


@inlined
def straight_through(gradient: Number, v: Number, lo: Number, hi: Number, compute_type: Number) -> Number:
    """Return the gradient where lo <= v <= hi, else 0 times it: NaN for non-finite gradients, -0 for negative ones."""
    inside = (v >= lo) & (v <= hi)
    return round_to(flush(gradient, compute_type) * select(inside, constant(1.0, v), constant(0.0, v)), compute_type)
