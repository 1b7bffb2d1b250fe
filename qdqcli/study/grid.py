"""Grid detection: finds tensors whose values already are integers, or FP8 or FP4 numbers, times a step."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import read_floats
from qdqcli.measure.layout import layout_of
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec
from qdqcli.study.float_grid import BLOCK, MAX_VALUES, MIN_SHARE, VALUES, distinct_values, find_float_grid, slicings
from qdqcli.study.profile import BLOCK_ELEMENTS, Floats, blocks
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

SAMPLED_SLICES = 64
"""Slices to sample first: few tensors are quantized already."""
INTEGERS = "int"
E2M1_BITS = VALUES["E2M1"][0]
ROUNDING = {"BF16": (2.0**-8, 63), "F16": (2.0**-11, 255), "F32": (2.0**-23, 255), "F64": (2.0**-23, 255)}
"""Dtype -> the relative rounding error of a code times a step, and the largest code that this error still separates
from its neighbours. A grid of 8 bits is not detectable in BF16. F64 tensors mostly come from float32 arithmetic.
"""


@dataclass(frozen=True, kw_only=True)
class FoundGrid:
    """The grid that a tensor's values lie on."""

    num_bits: int
    is_symmetric: bool
    """True where no zero point is needed."""
    signed: bool
    axis: int | tuple[int, int]
    group_size: int | None
    values: str = INTEGERS
    """`int`, or the format of the values: `E4M3`, `E2M1`."""
    block: int | None = None
    """Rows and columns of a block, where blocks are the slices."""
    share: float
    """Share of the slices on the grid."""


def find_grid(reader: ShardReader, info: TensorInfo, check: Callable[[], None]) -> FoundGrid | None:
    """Return the grid of integers, E4M3 or E2M1 values; None where there is none, or in Fortran order.

    Few integers are E2M1 values too, and those are integers of 5 bits: the grid with fewer bits is meant.
    """
    found = _find_integers(reader, info, check)
    if found is not None and found.num_bits <= E2M1_BITS:
        return found
    floats = find_float_grid(reader, info, check)
    if floats is None or (found is not None and found.num_bits <= floats[1]):
        return found
    values, bits, spec, share = floats
    return FoundGrid(
        num_bits=bits,
        is_symmetric=True,
        signed=True,
        axis=WHOLE_TENSOR if spec is None else spec.axis,
        group_size=None if spec is None else spec.group_size,
        values=values,
        block=BLOCK if spec is None else None,
        share=share,
    )


def _find_integers(reader: ShardReader, info: TensorInfo, check: Callable[[], None]) -> FoundGrid | None:
    """Return the grid of integers with the largest of `slicings`; `check` is called regularly and may raise."""
    specs = slicings(info)
    if not specs or _sampled(reader, info, specs[-1]) is None:  # a grid of large slices is one of small slices too
        return None
    for spec in specs:
        codes = _sampled(reader, info, spec)
        if codes is not None:
            found = _verified(reader, info, spec, codes, check)
            if found is not None:
                return found
    return None


def _sampled(reader: ShardReader, info: TensorInfo, spec: QuantSpec) -> list[int] | None:
    """Return the peak codes of sampled slices, the most frequent first; None where these slices have no grid."""
    layout = layout_of(info, spec)
    count = min(SAMPLED_SLICES, layout.num_slices)
    found: Counter[int] = Counter()
    misses = 0
    for number in range(count):
        at = number * layout.num_slices // count
        start, size = layout.start_of(at), min(layout.size_of(at), BLOCK_ELEMENTS)
        values = np.unique(read_floats(reader, info, (start, start + size)))
        if len(values) < 2:
            continue  # a constant lies on any grid
        code = _peak_code(values, info.dtype.name)
        misses += code is None
        if misses > (1 - MIN_SHARE) * count:
            return None
        if code is not None:
            found[code] += 1
    return [code for code, _ in found.most_common()] or None


def _peak_code(values: Floats, dtype: str) -> int | None:
    """Return the smallest code of the peak for which all values are integers times a step."""
    if len(values) > MAX_VALUES or not np.isfinite(values).all():
        return None
    for code in range(1, ROUNDING[dtype][1] + 1):
        if _codes(values[None], code, dtype)[1][0]:
            return code
    return None


def _codes(x: Floats, peak_code: int, dtype: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the codes of slices (slices, elements) whose peak has this code, and a mask of the slices on that grid.

    Each value allows steps from value / code (1 - rounding) to value / code (1 + rounding); all must share one.
    """
    size, rounding = np.abs(x), ROUNDING[dtype][0]
    peak = size.max(axis=1, keepdims=True)
    codes = np.rint(size * peak_code / np.where(peak > 0, peak, 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(codes > 0, size / codes, np.nan)
        low, high = np.fmax.reduce(step, axis=1) * (1 - rounding), np.fmin.reduce(step, axis=1) * (1 + rounding)
    fitting = ((codes > 0) | (size == 0)).all(axis=1) & ((low <= high) | (peak[:, 0] == 0))
    return np.copysign(codes, x), fitting


def _verified(
    reader: ShardReader, info: TensorInfo, spec: QuantSpec, peak_codes: Sequence[int], check: Callable[[], None]
) -> FoundGrid | None:
    """Return the grid, if nearly all slices lie on it with one of these codes as their peak."""
    layout = layout_of(info, spec)
    if spec.group_size is None:
        slices = (values[None] for values in distinct_values(reader, info, spec, check, np.asarray))
    else:
        size = spec.group_size
        slices = (x.reshape(-1, size) for _, x in blocks(reader, info, layout, check))
    total = fitting = 0
    low = high = span = 0.0
    for part in slices:
        if part.shape[1] > MAX_VALUES:
            return None
        pending = np.asarray(np.isfinite(part).all(axis=1))
        total += len(part)
        for code in peak_codes:
            own = np.flatnonzero(pending)
            codes, fits_code = _codes(part[own], code, info.dtype.name)
            codes = codes[fits_code]
            pending[own[fits_code]] = False
            if len(codes):
                fitting += len(codes)
                lows, highs = np.minimum(codes.min(axis=1), 0), np.maximum(codes.max(axis=1), 0)
                low, high = min(low, float(lows.min())), max(high, float(highs.max()))
                span = max(span, float((highs - lows).max()))
        if total - fitting > (1 - MIN_SHARE) * layout.num_slices:
            return None
    affine = int(span).bit_length()
    signed = low < 0
    symmetric = max(int(-low - 1).bit_length(), int(high).bit_length()) + 1 if signed else int(high).bit_length()
    return FoundGrid(
        num_bits=min(affine, symmetric),
        is_symmetric=symmetric <= affine,
        signed=signed,
        axis=spec.axis,
        group_size=spec.group_size,
        share=fitting / max(total, 1),
    )
