"""The slow, obvious oracle: the op in scalar Python, written from the specification of its semantics and nothing else.

Every value of bfloat16, float16, float32 and float64 is a Python float, which holds all four exactly. An operation
computes the exact rational result and `Format.round` brings it back to the dtype, once. No one may optimise this file
or let it share code with the package.
"""

# ruff: noqa: A002  (`input` is the op's own name for its argument)

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

INF = math.inf
NAN = math.nan


@dataclass(frozen=True, kw_only=True)
class Format:
    """A floating-point dtype and its arithmetic: every method is one operation, correctly rounded, then flushed."""

    dtype: np.dtype[Any]
    precision: int
    """Bits of the significand, the leading one included."""
    min_exponent: int
    """Exponent of the smallest positive normal number."""
    max_exponent: int
    """Exponent of the largest finite number."""
    flushes: bool
    """Whether results below the smallest normal become zero. float16 never flushes: it is computed in float32."""

    @property
    def tiny(self) -> float:
        return 2.0**self.min_exponent

    @property
    def max(self) -> float:
        return float(2 ** (self.max_exponent + 1) - 2 ** (self.max_exponent + 1 - self.precision))

    def flush(self, v: float) -> float:
        return math.copysign(0.0, v) if self.flushes and abs(v) < self.tiny else v

    def round(self, exact: Fraction) -> float:
        """Round an exact, non-zero result: to nearest even with unbounded exponent, then flush, then overflow."""
        sign = -1.0 if exact < 0 else 1.0
        magnitude = abs(exact)
        exponent = _floor_log2(magnitude)
        if not self.flushes:  # gradual underflow: the spacing stops shrinking at the smallest normal number
            exponent = max(exponent, self.min_exponent)
        ulp = Fraction(2) ** (exponent - self.precision + 1)
        rounded = round(magnitude / ulp) * ulp  # Fraction rounds to nearest, ties to even
        if self.flushes and rounded < Fraction(2) ** self.min_exponent:
            return sign * 0.0
        if rounded >= Fraction(2) ** (self.max_exponent + 1):
            return sign * INF
        return sign * float(rounded)

    def from_int(self, i: int) -> float:
        return self.round(Fraction(i)) if i else 0.0

    def add(self, a: float, b: float) -> float:
        if not (math.isfinite(a) and math.isfinite(b)):
            return a + b
        exact = Fraction(a) + Fraction(b)
        return self.round(exact) if exact else a + b  # a + b: only the sign of zero is left to decide

    def multiply(self, a: float, b: float) -> float:
        if not (math.isfinite(a) and math.isfinite(b)) or a == 0 or b == 0:
            return a * b  # NaN, an infinity or a zero: nothing to round
        return self.round(Fraction(a) * Fraction(b))

    def divide(self, a: float, b: float) -> float:
        if math.isnan(a) or math.isnan(b):
            return NAN
        sign = math.copysign(1.0, a) * math.copysign(1.0, b)
        if math.isinf(a):
            return NAN if math.isinf(b) else sign * INF
        if b == 0:
            return NAN if a == 0 else sign * INF
        if a == 0 or math.isinf(b):
            return sign * 0.0
        return self.round(Fraction(a) / Fraction(b))


def _floor_log2(magnitude: Fraction) -> int:
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return exponent if magnitude >= Fraction(2) ** exponent else exponent - 1


FORMATS = {
    "bfloat16": Format(
        dtype=np.dtype(ml_dtypes.bfloat16), precision=8, min_exponent=-126, max_exponent=127, flushes=True
    ),
    "float16": Format(dtype=np.dtype(np.float16), precision=11, min_exponent=-14, max_exponent=15, flushes=False),
    "float32": Format(dtype=np.dtype(np.float32), precision=24, min_exponent=-126, max_exponent=127, flushes=True),
    "float64": Format(dtype=np.dtype(np.float64), precision=53, min_exponent=-1022, max_exponent=1023, flushes=True),
}


class SliceRange(NamedTuple):
    """What the range step gives the element step, for one slice."""

    min_range: float
    max_range: float
    scale: float
    inverse_scale: float


class RepresentableRange(NamedTuple):
    """`SliceRange` of every slice: float64 arrays, 0-d for one range per tensor, else (channels,)."""

    min_range: np.ndarray
    max_range: np.ndarray
    scale: np.ndarray
    inverse_scale: np.ndarray


# Section 3 and 5: from attributes and a range to the scale


def quantized_bounds(num_bits: int, *, signed_input: bool, narrow_range: bool) -> tuple[int, int]:
    if not signed_input:
        return 0, 2**num_bits - 1
    return -(2 ** (num_bits - 1)) + (1 if narrow_range else 0), 2 ** (num_bits - 1) - 1


def measured_range(fmt: Format, values: list[float]) -> tuple[float, float]:
    """Smallest and largest element, NaN ignored; of zeros +0 is the larger. NaN, NaN if there is no other element."""
    numbers = [v for v in values if not math.isnan(v)]
    if not numbers:
        return NAN, NAN

    def order(v: float) -> tuple[float, float]:
        return v, math.copysign(1.0, v)

    return fmt.flush(min(numbers, key=order)), fmt.flush(max(numbers, key=order))


def scale_of(fmt: Format, lo: float, hi: float, qmin: int, qmax: int) -> SliceRange:
    q_min, q_max = fmt.from_int(qmin), fmt.from_int(qmax)
    s_min = fmt.divide(q_min, lo) if fmt.multiply(q_min, lo) > 0 else fmt.max
    s_max = fmt.divide(q_max, hi) if fmt.multiply(q_max, hi) > 0 else fmt.max
    if s_min < s_max:
        inverse = fmt.divide(lo, q_min)
        return SliceRange(lo, fmt.multiply(q_max, inverse), s_min, inverse)
    inverse = fmt.divide(hi, q_max)
    return SliceRange(fmt.multiply(q_min, inverse), hi, s_max, inverse)


# Section 6: one element


def round_half_to_even(p: float) -> float:
    return math.copysign(float(round(p)), p) if math.isfinite(p) else p


def round_half_up(fmt: Format, p: float) -> float:
    total = fmt.add(p, 0.5)
    return float(math.floor(total)) if math.isfinite(total) else total


def element(fmt: Format, x: float, r: SliceRange, *, range_given: bool, round_mode: str) -> float:
    v = fmt.flush(x)
    if range_given:
        if r.max_range < v:
            v = r.max_range
        if v < r.min_range:
            v = r.min_range
    p = fmt.multiply(v, r.scale)
    q = round_half_to_even(p) if round_mode == "HALF_TO_EVEN" else round_half_up(fmt, p)
    return fmt.multiply(q, r.inverse_scale)


# Section 1 and 4: the tensor


def _format_of(dtype: np.dtype[Any]) -> Format:
    for fmt in FORMATS.values():
        if fmt.dtype == dtype:
            return fmt
    raise TypeError(f"dtype {dtype} is not one of {', '.join(FORMATS)}")


def _check_attributes(
    shape: tuple[int, ...], num_bits: int, signed_input: bool, round_mode: str, axis: int, compute_dtype: str
) -> None:
    if num_bits < 1 or num_bits > (61 if signed_input else 62):
        raise ValueError(f"num_bits is out of range: {num_bits} with signed_input {signed_input}")
    if round_mode not in ("HALF_TO_EVEN", "HALF_UP"):
        raise ValueError(f"round_mode {round_mode!r} is not HALF_TO_EVEN or HALF_UP")
    _check_axis(shape, axis)
    if compute_dtype not in ("native", "float32"):
        raise ValueError(f"compute_dtype {compute_dtype!r} is not native or float32")


def _check_axis(shape: tuple[int, ...], axis: int) -> None:
    if axis < -1:
        raise ValueError(f"axis must be at least -1, found {axis}")
    if axis >= len(shape):
        raise ValueError(f"axis {axis} needs rank {axis + 1}, but the tensor has rank {len(shape)}")


def _check_end_shapes(shape: tuple[int, ...], axis: int, ends: tuple[np.ndarray, np.ndarray]) -> None:
    for end in ends:
        if end.ndim != (0 if axis == -1 else 1):
            raise ValueError(f"a range end has rank {end.ndim} with axis {axis}")
    for end in ends:
        if axis >= 0 and len(end) != shape[axis]:
            raise ValueError(f"a range end has {len(end)} values, expected {shape[axis]}")


def _check_end_order(lo: np.ndarray, hi: np.ndarray) -> None:
    for lo_i, hi_i in zip(_floats(lo), _floats(hi), strict=True):
        if not lo_i <= hi_i:
            raise ValueError(f"invalid range: input_min {lo_i} > input_max {hi_i}")


def _floats(a: np.ndarray) -> list[float]:
    """The elements in C order as Python floats, which is exact for the four dtypes."""
    return [float(v) for v in np.ravel(a)]


def _array(values: list[float], shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array(values, np.float64).reshape(shape).astype(dtype)


def channel_indices(shape: tuple[int, ...], axis: int) -> list[int]:
    """The slice that each element belongs to, in C order."""
    if axis == -1:
        return [0] * math.prod(shape)
    return [int(i) for i in np.ravel(np.indices(shape)[axis])]


def _slice_ranges(
    fmt: Format,
    x: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray] | None,
    qmin: int,
    qmax: int,
    axis: int,
) -> Iterator[SliceRange]:
    num_slices = 1 if axis == -1 else x.shape[axis]
    if ends is not None:
        for lo, hi in zip(_floats(ends[0]), _floats(ends[1]), strict=True):
            yield scale_of(fmt, fmt.flush(lo), fmt.flush(hi), qmin, qmax)
        return
    slices: list[list[float]] = [[] for _ in range(num_slices)]
    for channel, v in zip(channel_indices(x.shape, axis), _floats(x), strict=True):
        slices[channel].append(v)
    for values in slices:
        lo, hi = measured_range(fmt, values)
        yield SliceRange(NAN, NAN, NAN, NAN) if math.isnan(lo) else scale_of(fmt, lo, hi, qmin, qmax)


def _prepare(
    input: np.ndarray,
    input_min: Any,
    input_max: Any,
    *,
    signed_input: bool,
    num_bits: int,
    range_given: bool,
    round_mode: str,
    narrow_range: bool,
    axis: int,
    compute_dtype: str,
) -> tuple[Format, list[SliceRange]]:
    """Check the arguments in the op's order and do the range step, in the dtype that computes."""
    storage = _format_of(input.dtype)
    _check_attributes(input.shape, num_bits, signed_input, round_mode, axis, compute_dtype)
    ends = None
    if range_given:
        if input_min is None or input_max is None:
            raise ValueError("range_given needs input_min and input_max")
        ends = (np.asarray(input_min, input.dtype), np.asarray(input_max, input.dtype))
        _check_end_shapes(input.shape, axis, ends)
        _check_end_order(*ends)
    use_float32 = compute_dtype == "float32" and storage.dtype.itemsize == 2
    fmt = FORMATS["float32"] if use_float32 else storage
    qmin, qmax = quantized_bounds(num_bits, signed_input=signed_input, narrow_range=narrow_range)
    return fmt, list(_slice_ranges(fmt, input, ends, qmin, qmax, axis))


def quantize_and_dequantize_v4(
    input: np.ndarray,
    input_min: Any = None,
    input_max: Any = None,
    *,
    signed_input: bool = True,
    num_bits: int = 8,
    range_given: bool = False,
    round_mode: str = "HALF_TO_EVEN",
    narrow_range: bool = False,
    axis: int = -1,
    compute_dtype: str = "native",
) -> np.ndarray:
    """The op on one tensor.

    With `compute_dtype="float32"` a 16-bit tensor goes through the float32 op and the result is rounded once.

    Raises:
        TypeError: the dtype is not one of the four.
        ValueError: any other check of section 1.
    """
    storage = _format_of(input.dtype)
    fmt, ranges = _prepare(
        input,
        input_min,
        input_max,
        signed_input=signed_input,
        num_bits=num_bits,
        range_given=range_given,
        round_mode=round_mode,
        narrow_range=narrow_range,
        axis=axis,
        compute_dtype=compute_dtype,
    )
    outputs = []
    for channel, x in zip(channel_indices(input.shape, axis), _floats(input), strict=True):
        y = element(fmt, x, ranges[channel], range_given=range_given, round_mode=round_mode)
        if fmt is not storage and math.isfinite(y) and y != 0:
            y = storage.round(Fraction(y))
        outputs.append(y)
    return _array(outputs, input.shape, input.dtype)


def representable_range(
    input: np.ndarray,
    input_min: Any = None,
    input_max: Any = None,
    *,
    signed_input: bool = True,
    num_bits: int = 8,
    range_given: bool = False,
    round_mode: str = "HALF_TO_EVEN",
    narrow_range: bool = False,
    axis: int = -1,
    compute_dtype: str = "native",
) -> RepresentableRange:
    """The range step alone, for the same arguments; NaN for a slice of only NaN and for an empty one."""
    _, ranges = _prepare(
        input,
        input_min,
        input_max,
        signed_input=signed_input,
        num_bits=num_bits,
        range_given=range_given,
        round_mode=round_mode,
        narrow_range=narrow_range,
        axis=axis,
        compute_dtype=compute_dtype,
    )
    shape: tuple[int, ...] = () if axis == -1 else (len(ranges),)
    return RepresentableRange(*(np.array([r[i] for r in ranges], np.float64).reshape(shape) for i in range(4)))


# Section 10: the gradient


def quantize_and_dequantize_v4_grad(
    gradients: np.ndarray, input: np.ndarray, input_min: Any, input_max: Any, axis: int = -1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradient op: input_backprop, and zeros shaped like the two range ends."""
    fmt = _format_of(input.dtype)
    if gradients.dtype != input.dtype:
        raise TypeError(f"gradients are {gradients.dtype}, the input is {input.dtype}")
    _check_axis(input.shape, axis)
    if gradients.shape != input.shape:
        raise ValueError(f"gradients have shape {gradients.shape}, the input has {input.shape}")
    ends = (np.asarray(input_min, input.dtype), np.asarray(input_max, input.dtype))
    _check_end_shapes(input.shape, axis, ends)
    lows, highs = ([fmt.flush(v) for v in _floats(end)] for end in ends)
    outputs = []
    for channel, g, x in zip(channel_indices(input.shape, axis), _floats(gradients), _floats(input), strict=True):
        inside = lows[channel] <= fmt.flush(x) <= highs[channel]
        outputs.append(fmt.multiply(fmt.flush(g), 1.0 if inside else 0.0))
    backprop = _array(outputs, input.shape, input.dtype)
    return backprop, np.zeros(ends[0].shape, input.dtype), np.zeros(ends[1].shape, input.dtype)


# What was lost


def _as_float64(a: np.ndarray) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def error_statistics(
    x: np.ndarray, y: np.ndarray, min_range: Any = -INF, max_range: Any = INF, axis: int = -1
) -> dict[str, float]:
    """The metrics of the report, by plain NumPy in float64.

    Args:
        x: the input.
        y: the output, of the same shape.
        min_range: lower end of the representable range; a scalar with axis -1, else one value per channel.
        max_range: upper end, likewise.
        axis: axis of the channels.

    Returns:
        Counts as int, the rest as float. Metrics of no element are NaN. An exact output has `sqnr_db` inf and
        `relative_l2` 0, even of zeros.
    """
    x64, y64 = _as_float64(x), _as_float64(y)
    lo, hi = np.asarray(min_range, np.float64), np.asarray(max_range, np.float64)
    if axis >= 0:
        along = [-1 if i == axis else 1 for i in range(x64.ndim)]
        lo, hi = lo.reshape(along), hi.reshape(along)
    finite_x, finite_y = np.isfinite(x64), np.isfinite(y64)
    counted = finite_x & finite_y
    clipped = (x64 < lo) | (x64 > hi)
    result: dict[str, float] = {
        "num_elements": x64.size,
        "num_nonfinite": int(np.count_nonzero(~finite_x)),
        "num_nonfinite_output": int(np.count_nonzero(finite_x & ~finite_y)),
        "input_min": float(x64[finite_x].min()) if finite_x.any() else NAN,
        "input_max": float(x64[finite_x].max()) if finite_x.any() else NAN,
    }
    xs, ys = x64[counted], y64[counted]
    with np.errstate(all="ignore"):
        e = ys - xs
        sum_sq_x, sum_sq_y, sum_sq_e = float((xs * xs).sum()), float((ys * ys).sum()), float((e * e).sum())
        sum_xy = float((xs * ys).sum())
    if not xs.size:
        names = (
            "max_abs_error mean_error mean_abs_error mse rmse relative_l2 sqnr_db cosine_similarity "
            "clipped_fraction zeroed_fraction"
        )
        return result | dict.fromkeys(names.split(), NAN)
    exact = bool((e == 0).all())
    with np.errstate(all="ignore"):
        ratio = np.float64(sum_sq_e) / np.float64(sum_sq_x)
        mse = sum_sq_e / xs.size
        result |= {
            "max_abs_error": float(np.abs(e).max()),
            "mean_error": float(e.sum() / xs.size),
            "mean_abs_error": float(np.abs(e).sum() / xs.size),
            "mse": mse,
            "rmse": math.sqrt(mse),
            "relative_l2": 0.0 if exact else float(np.sqrt(ratio)),
            "sqnr_db": INF if exact else float(-10 * np.log10(ratio)),
            "cosine_similarity": _cosine(sum_xy, sum_sq_x, sum_sq_y),
            "clipped_fraction": float(np.count_nonzero(clipped & counted) / xs.size),
            "zeroed_fraction": float(np.count_nonzero((xs != 0) & (ys == 0)) / xs.size),
        }
    return result


def _cosine(sum_xy: float, sum_sq_x: float, sum_sq_y: float) -> float:
    if sum_sq_x == 0 and sum_sq_y == 0:
        return 1.0
    if sum_sq_x == 0 or sum_sq_y == 0:
        return 0.0
    return sum_xy / (math.sqrt(sum_sq_x) * math.sqrt(sum_sq_y))


CHUNK_ELEMENTS = 65_536
RUN_ELEMENTS = 256
VECTOR_SIZE = 16
SUMS = ("sum_error", "sum_abs_error", "sum_sq_error", "sum_sq_input", "sum_sq_output")


def ordered_sums(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Five sums in the documented order of addition, to be matched bit for bit.

    The terms e, |e|, e^2, x^2 and y^2 of an element are made in float32, or in float64 if x or y is of float64. The
    tensor, flat in C order, is cut into chunks of 65,536 elements, a chunk into runs of 256. Element i belongs to lane
    i % 16. In a run a lane adds its terms one after another, in their type; in a chunk it adds the runs one after
    another, in float64. Lane k + 8 is added to lane k, then k + 4, k + 2, k + 1. A chunk of float32 terms that is
    extreme by these sums is made again with terms in float64. The chunks are added exactly and rounded once. An element
    where x or y is not finite has the terms 0.
    """
    is_double = np.float64 in (np.asarray(x).dtype, np.asarray(y).dtype)
    xs, ys = _as_float64(x).reshape(-1), _as_float64(y).reshape(-1)
    counted = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = np.where(counted, xs, 0.0), np.where(counted, ys, 0.0)
    chunks = []
    for first in range(0, xs.size, CHUNK_ELEMENTS):
        chunk = slice(first, first + CHUNK_ELEMENTS)
        sums = chunk_sums(xs[chunk], ys[chunk], np.float64 if is_double else np.float32)
        if not is_double and is_extreme(*sums):
            sums = chunk_sums(xs[chunk], ys[chunk], np.float64)
        chunks.append(sums[:5])
    return {name: _exact_sum([sums[k] for sums in chunks]) for k, name in enumerate(SUMS)}


def chunk_sums(xs: np.ndarray, ys: np.ndarray, kind: Any) -> tuple[float, float, float, float, float, float]:
    """The five sums of one chunk, with terms of the type `kind`, and the largest |e|."""
    with np.errstate(all="ignore"):
        a, b = xs.astype(kind), ys.astype(kind)
        e = b - a
        sums = [_lane_sum(term) for term in (e, np.abs(e), e * e, a * a, b * b)]
    return (*sums, float(np.abs(e).max(initial=0)))  # type: ignore[return-value]


def is_extreme(_error: float, abs_error: float, ee: float, xx: float, yy: float, peak: float) -> bool:
    """Whether float32 may not hold the terms of a chunk, by the sums that it gave."""
    tiny = 2.0**-100
    if not all(map(math.isfinite, (abs_error, ee, xx, yy))):
        return True
    lost = xx < tiny or (ee < tiny and peak > 0) or (yy < tiny and ee != xx)
    return lost or (yy > 0 and xx + yy - ee < max(xx, yy) * 2.0**-7)


def _lane_sum(term: np.ndarray) -> float:
    padded = np.concatenate([term, np.zeros(-term.size % RUN_ELEMENTS, term.dtype)])
    lanes = np.zeros(VECTOR_SIZE)
    with np.errstate(all="ignore"):
        for run in padded.reshape(-1, RUN_ELEMENTS // VECTOR_SIZE, VECTOR_SIZE):
            total = np.zeros(VECTOR_SIZE, term.dtype)
            for row in run:
                total = total + row
            lanes = lanes + total.astype(np.float64)
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])


def _exact_sum(values: list[float]) -> float:
    """The sum rounded once; like math.fsum, but an overflow is an infinity and inf - inf is NaN."""
    if not all(map(math.isfinite, values)):
        return float(sum(values))
    exact = sum(map(Fraction, values), Fraction(0))
    try:
        return float(exact)
    except OverflowError:
        return INF if exact > 0 else -INF


def tolerance_for(metric: str, expected: dict[str, float]) -> float:
    """How far a metric made of `ordered_sums` may be from that of `error_statistics`, whose sums are float64's.

    Sums of float32 terms are off by at most 18 x 2^-24 = 1.1e-6: a product and an error are rounded once each, and 15
    terms are added before they are widened. The sum of e cancels, so that its tolerance is a share of the sum of |e|.
    """
    if metric == "sqnr_db":
        return 1e-5
    if metric == "cosine_similarity":
        return 1e-5
    if metric == "mean_error":
        return 1.1e-6 * expected["mean_abs_error"]
    shares = {"max_abs_error": 6e-8, "mean_abs_error": 1.1e-6, "mse": 1.1e-6, "rmse": 6e-7, "relative_l2": 1.1e-6}
    return shares.get(metric, 1e-12) * abs(expected[metric])
