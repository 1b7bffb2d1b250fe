"""Kernel arguments other than elements: dtype tables, order keys, ranges, qparams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qdqcli.op.jit.kernel import VECTOR_SIZE, StaticBool
from qdqcli.op.layout import Elements, Layout, Steps
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode

Floats = NDArray[np.floating]
"""float64 for F64 tensors, float32 for the others."""
Stored = NDArray[np.number]
"""Elements as the kernels see them, `STORAGE`."""
OrderKeys = NDArray[np.signedinteger]
"""Order keys (2, slices) of the smallest and largest element: int16, int32 or int64, of the dtype's width."""

STORAGE: dict[str, type[np.generic]] = {"F32": np.float32, "F64": np.float64, "BF16": np.int16, "F16": np.uint16}
"""Kernel view of each dtype: floats, or the bits of 16-bit floats, whose types tell BF16 from F16."""
FLOAT_TYPE: dict[str, type[np.floating]] = {"F32": np.float32, "F64": np.float64, "BF16": np.float32, "F16": np.float32}
"""Type in which values of each dtype are computed."""
COMPUTE_TYPE: dict[ComputeDType, dict[str, np.generic]] = {
    ComputeDType.NATIVE: {dtype: kind(0) for dtype, kind in STORAGE.items()},
    ComputeDType.FLOAT32: {dtype: kind(0) for dtype, kind in FLOAT_TYPE.items()},
}
"""Numbers whose types name the arithmetic, by the dtype of the tensor."""
PATTERN: dict[str, type[np.signedinteger]] = {"F32": np.int32, "F64": np.int64, "BF16": np.int16, "F16": np.int16}
"""Integer types of order keys."""
INFINITY = {"F32": 0x7F800000, "F64": 0x7FF0000000000000, "BF16": 0x7F80, "F16": 0x7C00}
"""Order key of +inf; NaNs are beyond it."""


MIN_RANGE, MAX_RANGE, SCALE, INVERSE_SCALE = range(4)
"""Rows of qparams, one column per slice."""
QPARAM_ROWS = 4
FLUSHING, CLIPPING, DEGENERATE = range(3)
"""Rows of the flags, one column per slice."""
FLAG_ROWS = 3


class OrderKeyLimits(NamedTuple):
    """Bounds of order keys."""

    infinity: np.signedinteger
    """Key of +inf; NaNs are beyond it."""
    nothing_lo: np.signedinteger
    """Smallest key of a slice without elements other than NaN: the greatest there is."""
    nothing_hi: np.signedinteger


class Codes(NamedTuple):
    """Lowest and highest code, as numbers of the arithmetic."""

    q_min: np.floating
    q_max: np.floating


class Op(NamedTuple):
    """Settings of the op besides its qparams."""

    clamping: StaticBool
    """True where the range was given: elements are clamped to it."""
    half_up: StaticBool
    compute_type: np.generic
    """Number whose type names the arithmetic, see `value.py`."""


class Qparams(NamedTuple):
    """Qparams as kernels take them; those that sum errors take arrays whose first dimension is the setting."""

    values: Floats
    """(QPARAM_ROWS, slices), or (QPARAM_ROWS, row + VECTOR_SIZE) with `columns`."""
    flags: NDArray[np.bool_]
    """(FLAG_ROWS, slices), or (FLAG_ROWS, 1) with `columns`: those that any slice has."""
    columns: bool | None
    """True for slices shorter than a vector, in every row: a column per element of a row, which then wraps around."""
    clipping: NDArray[np.bool_] | bool
    """(1,): False where no element can be out of range; True on a device, which does not ask."""


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """Grids of the slices from `first_slice` on; arrays are padded to a multiple of VECTOR_SIZE slices."""

    first_slice: int
    num_slices: int
    qparams: Floats
    """(4, slices): min_range, max_range, scale (steps per unit, the op's sense), inverse_scale."""
    flags: NDArray[np.bool_]
    """(3, slices): subnormal elements are flushed; elements may be outside the range; the scale is degenerate."""
    columns: Floats | None
    """(4, row + VECTOR_SIZE): the qparams of each element of a row, which wrap around, as `Qparams.columns` says."""
    op: Op

    @cached_property
    def as_qparams(self) -> Qparams:
        """The qparams as kernels take them. Flushing all slices where one flushes subnormals changes nothing."""
        any_flags = np.asarray(self.flags[:, : self.num_slices].any(axis=1, keepdims=True))
        clipping = any_flags[CLIPPING]
        if self.columns is None:
            return Qparams(self.qparams, self.flags, None, clipping)
        return Qparams(self.columns, any_flags, True, clipping)

    def arguments(self, elements: Elements, layout: Layout) -> tuple[Elements, Steps, Qparams]:
        """Return the arguments `elements`, `steps` and `qparams` of kernels."""
        return elements, layout.steps(self.first_slice), self.as_qparams

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """(slices,): the scale is 0, infinite or the maximum; summing adds slices with non-finite output."""
        degenerate: NDArray[np.bool_] = self.flags[DEGENERATE, : self.num_slices]
        return degenerate


@dataclass(frozen=True, kw_only=True)
class SettingsParams:
    """Qparams of the same slices under settings of the same `op`."""

    each: Sequence[QuantParams]

    @cached_property
    def as_qparams(self) -> Qparams:
        """The qparams as kernels take them, with the setting as the first dimension."""
        first, *others = (params.as_qparams for params in self.each)
        if not others:
            return Qparams(first.values[None], first.flags[None], first.columns, first.clipping)
        values, flags, clipping = (
            np.stack([getattr(qparams, name) for qparams in (first, *others)])
            for name in ("values", "flags", "clipping")
        )
        return Qparams(values, flags, first.columns, clipping[:, 0])

    def arguments(self, elements: Elements, layout: Layout) -> tuple[Elements, Steps, Qparams]:
        """`QuantParams.arguments` of all."""
        return *self.each[0].arguments(elements, layout)[:2], self.as_qparams


def floats_of(stored: Stored) -> Floats:
    """Decode stored elements with NumPy, where a kernel is not worthwhile."""
    if stored.dtype == STORAGE["BF16"]:
        return (stored.astype(np.int32) << 16).view(np.float32)
    return stored.view(np.float16 if stored.dtype == STORAGE["F16"] else stored.dtype)


def op_and_codes(spec: QuantSpec, dtype: str) -> tuple[Op, Codes]:
    """Return the settings as kernels take them."""
    half_up: StaticBool = True if spec.round_mode is RoundMode.HALF_UP else None
    compute_type = COMPUTE_TYPE[spec.compute_dtype][dtype]
    kinds = compute_type.dtype, np.dtype(FLOAT_TYPE[dtype])
    codes = Codes(_code(spec.quantized_min, *kinds), _code(spec.quantized_max, *kinds))
    return Op(spec.is_range_given or None, half_up, compute_type), codes


@cache
def _code(code: int, compute_type: np.dtype, number: np.dtype) -> np.floating:
    return _rounded(number.type(code), compute_type, number).flat[0]


def cuts(count: int, parts: int) -> list[int]:
    """Return the parts + 1 bounds of nearly equal parts of `count` elements, whole vectors except for the last."""
    return [*(part * count // parts // VECTOR_SIZE * VECTOR_SIZE for part in range(parts)), count]


@cache
def order_key_limits(dtype: str) -> OrderKeyLimits:
    """Return the bounds of order keys, in their type."""
    limits = np.iinfo(PATTERN[dtype])
    return OrderKeyLimits(*map(PATTERN[dtype], (INFINITY[dtype], limits.max, limits.min)))


def empty_order_keys(num_slices: int, dtype: str) -> OrderKeys:
    """Return sentinel keys, for ranges without elements yet; keys are merged by minimum and maximum."""
    limits = np.iinfo(PATTERN[dtype])
    order_keys = np.empty((2, num_slices), PATTERN[dtype])
    order_keys[0], order_keys[1] = limits.max, limits.min
    return order_keys


def merge_order_keys(order_keys: OrderKeys, other: OrderKeys) -> None:
    """Widen `order_keys` by the ranges of `other`, slice by slice."""
    np.minimum(order_keys[0], other[0], out=order_keys[0])
    np.maximum(order_keys[1], other[1], out=order_keys[1])


def ranges_of_order_keys(order_keys: OrderKeys, dtype: str) -> Floats:
    """Return the ranges (2, slices), lower and upper ends; NaN for a slice without elements other than NaN."""
    bits = np.where(order_keys < 0, order_keys ^ np.iinfo(order_keys.dtype).max, order_keys)
    ranges: Floats = floats_of(bits.view(STORAGE[dtype])).astype(FLOAT_TYPE[dtype])
    ranges[:, order_keys[0] > order_keys[1]] = np.nan
    return ranges


def in_arithmetic(end: ArrayLike, compute_type: np.generic, dtype: str) -> Floats:
    """Convert range ends to the float type, rounded like the arithmetic rounds."""
    return _rounded(np.asarray(end), compute_type.dtype, np.dtype(FLOAT_TYPE[dtype]))


def _rounded(values: NDArray[np.generic] | np.generic, compute_type: np.dtype, number: np.dtype) -> Floats:
    """Convert to the type `number`, rounded to the arithmetic's type."""
    kind: Any = np.float16 if compute_type.type is STORAGE["F16"] else number
    if compute_type.type is STORAGE["BF16"]:
        import ml_dtypes  # nothing else needs it

        kind = ml_dtypes.bfloat16
    with np.errstate(over="ignore"):  # from 16 bits on, float16's highest code is infinite
        return np.asarray(values.astype(kind).astype(number))
