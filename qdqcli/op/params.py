"""From the range of each slice to the grid that quantizes it, in the arithmetic's own dtype."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qdqcli.errors import SpecError
from qdqcli.op import cpu
from qdqcli.op.layout import Layout
from qdqcli.op.spec import WHOLE_TENSOR, ComputeDType, QuantSpec, RoundMode
from qdqcli.op.value import fit

Floats = NDArray[Any]
"""float64 for F64 tensors, float32 for the others."""

STORAGE: dict[str, type[np.generic]] = {"F32": np.float32, "F64": np.float64, "BF16": np.int16, "F16": np.uint16}
"""What the kernels see of each dtype: floats, or the bits of 16-bit floats, by which they tell the two apart."""


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """The grid of every slice: what the kernels need beside the elements."""

    grids: Floats
    """(slices, 4): min_range, max_range, scale (steps per unit, the op's sense), inverse_scale."""
    flushing: NDArray[np.bool_]
    """(slices,): subnormal elements could show and are flushed."""
    degenerate: NDArray[np.bool_]
    """(slices,): the scale is 0, infinite or the dtype's maximum; kernels add slices whose output is not finite."""
    clamping: bool
    """The range was given: elements are clamped to it."""
    half_up: bool
    like: np.generic
    """A number whose type names the arithmetic, see `value.py`."""


def like_of(dtype: str, compute_dtype: ComputeDType) -> np.generic:
    """The number that names the arithmetic of a tensor of this dtype."""
    storage = STORAGE[dtype]
    return np.float32(0) if compute_dtype is ComputeDType.FLOAT32 and storage is not np.float64 else storage(0)


def float_type(dtype: str) -> type[np.generic]:
    """The NumPy type in which values of this dtype are computed."""
    return np.float64 if dtype == "F64" else np.float32


def empty_keys(num_slices: int) -> NDArray[np.int64]:
    """Order keys (slices, 2) of ranges in which nothing was seen; they merge by minimum and maximum."""
    keys = np.empty((num_slices, 2), np.int64)
    keys[:, 0], keys[:, 1] = cpu.NO_MIN, cpu.NO_MAX
    return keys


def merge_keys(keys: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Widen `keys` by the ranges of `other`, slice by slice."""
    np.minimum(keys[:, 0], other[:, 0], out=keys[:, 0])
    np.maximum(keys[:, 1], other[:, 1], out=keys[:, 1])


def ends_of_keys(keys: NDArray[np.int64], dtype: str) -> Floats:
    """The ends (slices, 2) of the ranges; NaN where a slice has no number."""
    ordered: NDArray[Any] = keys if dtype == "F64" else keys.astype(np.int32)
    magnitude = np.iinfo(ordered.dtype).max
    ends = np.where(ordered < 0, ordered ^ magnitude, ordered).view(float_type(dtype))
    ends[keys[:, 0] > keys[:, 1]] = np.nan
    return ends


def given_ends(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """The ends (slices, 2) of ranges that were given: scalars for a whole tensor, else one value per slice.

    Raises:
        SpecError: the rank or the length does not fit, or not min <= max in every slice (a NaN end, too).
    """
    like = like_of(dtype, spec.compute_dtype)
    ends = np.empty((layout.num_slices, 2), float_type(dtype))
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
        ends[:, 0], ends[:, 1] = given
    return ends


def quant_params(ends: Floats, spec: QuantSpec, dtype: str) -> QuantParams:
    """The grids of slices whose ranges are `ends` (slices, 2)."""
    like = like_of(dtype, spec.compute_dtype)
    slices = len(ends)
    number = float_type(dtype)
    params = QuantParams(
        grids=np.empty((slices, cpu.GRID_COLUMNS), number),
        flushing=np.empty(slices, np.bool_),
        degenerate=np.empty(slices, np.bool_),
        clamping=spec.range_given,
        half_up=spec.round_mode is RoundMode.HALF_UP,
        like=like,
    )
    with np.errstate(over="ignore"):  # the highest code of float16 from 16 bits on is infinite
        codes = [fit(number(code), like) for code in (spec.quantized_min, spec.quantized_max)]
    cpu.make_grids(ends, *codes, spec.range_given, like, params.grids, params.flushing, params.degenerate)
    return params


def in_arithmetic(end: ArrayLike, like: np.generic, dtype: str) -> Floats:
    """Range ends in the float type, rounded as the arithmetic rounds."""
    kinds: dict[str, Any] = {"i2": ml_dtypes.bfloat16, "u2": np.float16}
    with np.errstate(over="ignore"):
        rounded = np.asarray(end).astype(kinds.get(like.dtype.str[1:], float_type(dtype)))
        return rounded.astype(float_type(dtype))
