"""What the kernels need beside the elements: how a dtype is stored, ranges as keys and as ends, grids."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qdqcli.errors import SpecError
from qdqcli.op.jit.vector import LANES
from qdqcli.op.layout import Layout
from qdqcli.op.spec import WHOLE_TENSOR, ComputeDType, QuantSpec, RoundMode
from qdqcli.op.value import Switch, fit

Floats = NDArray[Any]
"""float64 for F64 tensors, float32 for the others."""
Keys = NDArray[Any]
"""Order keys (2, slices) of the smallest and largest element: int16, int32 or int64 as the dtype has bits."""

STORAGE: dict[str, type[np.generic]] = {"F32": np.float32, "F64": np.float64, "BF16": np.int16, "F16": np.uint16}
"""What the kernels see of each dtype: floats, or the bits of 16-bit floats, by which they tell the two apart."""
PATTERN: dict[str, type[np.signedinteger[Any]]] = {"F32": np.int32, "F64": np.int64, "BF16": np.int16, "F16": np.int16}
"""The integers that order keys are made of."""
INFINITY = {"F32": 0x7F800000, "F64": 0x7FF0000000000000, "BF16": 0x7F80, "F16": 0x7C00}
"""The order key of +inf; beyond it are NaNs."""


MIN_RANGE, MAX_RANGE, SCALE, INVERSE_SCALE = range(4)
"""Rows of a grid, one column per slice."""
GRID_ROWS = 4
FLUSHING, CLIPPING, DEGENERATE = range(3)
"""Rows of what else is known of a slice, as booleans."""
FLAG_ROWS = 3


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The grids of slices too short for lanes, one column per element of a row."""

    origin: int
    """The element in column 0 of some row."""
    row: int
    """Elements of a row."""
    grids: Floats
    """(4, row + LANES): behind the last column they begin again."""

    def place(self, base: int, start: int, stop: int) -> tuple[int, int, int, int]:
        """The same three elements counted from column 0, and the length of a row: what the kernels take."""
        return base - self.origin, start - self.origin, stop - self.origin, self.row


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """The grids of the slices from `first_slice` on; arrays have room for a multiple of LANES slices."""

    first_slice: int
    num_slices: int
    grids: Floats
    """(4, slices): min_range, max_range, scale (steps per unit, the op's sense), inverse_scale."""
    flags: NDArray[np.bool_]
    """(3, slices): subnormal elements are flushed; elements may be outside the range; the scale is degenerate."""
    columns: Columns | None
    clamping: Switch
    """The range was given: elements are clamped to it."""
    half_up: Switch
    like: np.generic
    """A number whose type names the arithmetic, see `value.py`."""

    @cached_property
    def any_flags(self) -> NDArray[np.bool_]:
        """(3, 1): of all slices."""
        return np.asarray(self.flags[:, : self.num_slices].any(axis=1, keepdims=True))

    @cached_property
    def any_flushing(self) -> bool:
        """Flushing elements that need not be changes nothing."""
        return bool(self.flags[0, : self.num_slices].any())

    @cached_property
    def any_clipping(self) -> bool:
        """Elements may be outside the range of some slice."""
        return bool(self.flags[1, : self.num_slices].any())

    @property
    def degenerate(self) -> NDArray[np.bool_]:
        """(slices,): the scale is 0, infinite or the maximum; summing adds slices whose output is not finite."""
        degenerate: NDArray[np.bool_] = self.flags[2, : self.num_slices]
        return degenerate


def like_of(dtype: str, compute_dtype: ComputeDType) -> np.generic:
    """The number that names the arithmetic of a tensor of this dtype."""
    storage = STORAGE[dtype]
    return np.float32(0) if compute_dtype is ComputeDType.FLOAT32 and storage is not np.float64 else storage(0)


def floats_of(stored: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """The values of elements as they are stored, for where no kernel is worth it."""
    if stored.dtype == STORAGE["BF16"]:
        return (stored.astype(np.int32) << 16).view(np.float32)
    return stored.view(np.float16) if stored.dtype == STORAGE["F16"] else stored


def half_up(spec: QuantSpec) -> Switch:
    """Whether the round mode is HALF_UP."""
    return True if spec.round_mode is RoundMode.HALF_UP else None


def codes(spec: QuantSpec, like: np.generic, number: type[np.generic]) -> tuple[np.generic, np.generic]:
    """The lowest and the highest code in the arithmetic."""
    kinds = like.dtype.str, np.dtype(number).str
    return _code(spec.quantized_min, *kinds), _code(spec.quantized_max, *kinds)


@cache
def _code(code: int, like: str, number: str) -> Any:
    with np.errstate(over="ignore"):  # the highest code of float16 from 16 bits on is infinite
        return fit(np.dtype(number).type(code), np.dtype(like).type(0))


def cuts(count: int, parts: int) -> NDArray[np.int64]:
    """Bounds (parts + 1,) of nearly equal parts of `count` things, whole lanes but for the last."""
    bounds = np.arange(parts + 1) * count // parts // LANES * LANES
    bounds[-1] = count
    return bounds


def float_type(dtype: str) -> type[np.generic]:
    """The NumPy type in which values of this dtype are computed."""
    return np.float64 if dtype == "F64" else np.float32


@cache
def key_limits(dtype: str) -> tuple[np.signedinteger[Any], Keys]:
    """The order key of +inf, and the keys (2,) of a slice without a number."""
    limits = np.iinfo(PATTERN[dtype])
    return PATTERN[dtype](INFINITY[dtype]), np.array([limits.max, limits.min], PATTERN[dtype])


def empty_keys(num_slices: int, dtype: str) -> Keys:
    """Keys of ranges in which nothing was seen; they merge by minimum and maximum."""
    limits = np.iinfo(PATTERN[dtype])
    keys = np.empty((2, num_slices), PATTERN[dtype])
    keys[0], keys[1] = limits.max, limits.min
    return keys


def merge_keys(keys: Keys, other: Keys) -> None:
    """Widen `keys` by the ranges of `other`, slice by slice."""
    np.minimum(keys[0], other[0], out=keys[0])
    np.maximum(keys[1], other[1], out=keys[1])


def merge_columns(keys: Keys, by_column: Keys, slices: NDArray[np.int64]) -> None:
    """Widen `keys` by columns; `slices`, in rising order without a gap, says which slice each belongs to."""
    begins = np.flatnonzero(np.diff(slices, prepend=-1))
    merge_keys(keys, np.array([np.minimum.reduceat(by_column[0], begins), np.maximum.reduceat(by_column[1], begins)]))


def ends_of_keys(keys: Keys, dtype: str) -> Floats:
    """The ends (2, slices) of the ranges; NaN where a slice has no number."""
    bits = np.where(keys < 0, keys ^ np.iinfo(keys.dtype).max, keys)
    if dtype == "BF16":
        ends: Floats = (bits.astype(np.int32) << 16).view(np.float32)
    else:
        ends = bits.view(np.float16 if dtype == "F16" else STORAGE[dtype]).astype(float_type(dtype))
    ends[:, keys[0] > keys[1]] = np.nan
    return ends


def given_ends(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """The ends (2, slices) of ranges that were given: scalars for a whole tensor, else one value per slice.

    Raises:
        SpecError: the rank or the length does not fit, or not min <= max in every slice (a NaN end, too).
    """
    like = like_of(dtype, spec.compute_dtype)
    ends = np.empty((2, layout.num_slices), float_type(dtype))
    whole = spec.axis == WHOLE_TENSOR and spec.group_size is None
    given = [in_arithmetic(end, like, dtype) for end in (input_min, input_max)]
    for name, end in zip(("input_min", "input_max"), given, strict=True):
        if whole and end.ndim:
            raise SpecError(f"{name} has shape {list(end.shape)}; a range for the whole tensor is a scalar")
        if not whole and end.ndim != 1:
            raise SpecError(f"{name} has rank {end.ndim}; with an axis or groups it has one value per slice, rank 1")
    for name, end in zip(("input_min", "input_max"), given, strict=True):
        if not whole and end.size != layout.num_ranges:
            raise SpecError(f"{name} has {end.size} values; the tensor has {layout.num_ranges} slices")
    ordered = given[0] <= given[1]
    if not ordered.all():
        where = "" if whole else f" in slice {int(np.argmin(ordered))}"
        bad = [end if whole else end[np.argmin(ordered)] for end in given]
        raise SpecError(f"input_min is {bad[0]} and input_max is {bad[1]}{where}; input_min <= input_max must hold")
    if layout.num_slices:
        ends[0], ends[1] = given
    return ends


def gradient_ends(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """The ends (2, slices) for the gradient, which unlike the op itself takes them in any order, and NaN.

    Raises:
        SpecError: the rank or the length does not fit.
    """
    ends = np.empty((2, layout.num_slices), float_type(dtype))
    rank = 0 if spec.axis == WHOLE_TENSOR else 1
    for row, (name, end) in enumerate((("input_min", input_min), ("input_max", input_max))):
        values = np.asarray(end)
        if values.ndim != rank:
            raise SpecError(f"{name} has rank {values.ndim}; axis {spec.axis} takes rank {rank}")
        if rank and values.size != layout.num_ranges:
            raise SpecError(f"{name} has {values.size} values; dimension {spec.axis} has {layout.num_ranges}")
        if layout.num_slices:
            ends[row] = in_arithmetic(values, like_of(dtype, ComputeDType.NATIVE), dtype)
    return ends


def in_arithmetic(end: ArrayLike, like: np.generic, dtype: str) -> Floats:
    """Range ends in the float type, rounded as the arithmetic rounds."""
    import ml_dtypes  # only ranges that are given need it

    kinds: dict[str, Any] = {"i2": ml_dtypes.bfloat16, "u2": np.float16}
    with np.errstate(over="ignore"):
        rounded = np.asarray(end).astype(kinds.get(like.dtype.str[1:], float_type(dtype)))
        return rounded.astype(float_type(dtype))
