"""Ranges that a caller of the op gives: checked, and rounded as the arithmetic rounds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qdqcli.errors import SpecError
from qdqcli.op.layout import Layout
from qdqcli.op.params import COMPUTE_TYPE, FLOAT_TYPE, Floats, in_arithmetic
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec


def given_ranges(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """Validate and return given ranges (2, slices): scalars for a whole tensor, else one value per slice.

    Raises:
        SpecError: not real numbers, wrong rank or length, or not min <= max in every slice (also for a NaN end).
    """
    ranges = _checked_ranges(input_min, input_max, spec, layout, dtype)
    ordered = ranges[0] <= ranges[1]
    if not ordered.all():
        bad = int(np.argmin(ordered))
        where = "" if _is_whole(spec) else f" in slice {bad}"
        raise SpecError(
            f"input_min is {ranges[0, bad]} and input_max is {ranges[1, bad]}{where}; input_min <= input_max must hold"
        )
    return ranges[:, : layout.num_slices]


def gradient_ranges(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """Return the ranges (2, slices) for the gradient, which accepts them in any order, and NaN, unlike the op itself.

    Raises:
        SpecError: not real numbers, wrong rank or length.
    """
    return _checked_ranges(input_min, input_max, spec, layout, dtype)[:, : layout.num_slices]


def _checked_ranges(input_min: ArrayLike, input_max: ArrayLike, spec: QuantSpec, layout: Layout, dtype: str) -> Floats:
    """Return given ranges (2, ranges), rounded like the arithmetic rounds."""
    ranges = np.empty((2, layout.num_ranges), FLOAT_TYPE[dtype])
    compute_type = COMPUTE_TYPE[spec.compute_dtype][dtype]
    for row, (name, end) in enumerate((("input_min", input_min), ("input_max", input_max))):
        values = real_numbers(name, end)
        if _is_whole(spec) and values.ndim:
            raise SpecError(f"{name} has shape {list(values.shape)}; a range for the whole tensor is a scalar")
        if not _is_whole(spec) and values.ndim != 1:
            raise SpecError(f"{name} has rank {values.ndim}; with an axis or groups it has one value per slice, rank 1")
        if not _is_whole(spec) and values.size != layout.num_ranges:
            raise SpecError(f"{name} has {values.size} values; the tensor has {layout.num_ranges} slices")
        ranges[row] = in_arithmetic(values, compute_type, dtype)
    return ranges


def _is_whole(spec: QuantSpec) -> bool:
    return spec.axis == WHOLE_TENSOR and spec.group_size is None


def real_numbers(name: str, end: ArrayLike) -> NDArray[np.generic]:
    """Return an end of ranges as an array.

    Raises:
        SpecError: a value is not a real number: a text, a boolean, a complex number.
    """
    values = np.asarray(end)
    if values.dtype.kind == "O" and all(isinstance(value, int) for value in values.flat):  # beyond 64 bits
        return values.astype(np.float64)
    if values.dtype.kind not in "iuf" and "float" not in values.dtype.name:  # bfloat16 has a kind of its own
        raise SpecError(f"{name} is {end!r}; it must be a real number, or an array of them")
    return values
