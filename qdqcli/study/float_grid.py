"""Grids of FP8 and FP4 values: tensors whose elements are E4M3 or E2M1 numbers times a scale per slice.

Slices are the tensor, its rows, groups of 256 to 16 and blocks of 128 by 128, as checkpoints of DeepSeek, MX and NVFP4
formats have them.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from qdqcli.measure.blocks import read_floats
from qdqcli.measure.layout import layout_of
from qdqcli.op.spec import QuantSpec
from qdqcli.study.profile import Floats, blocks, fits
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

BLOCK = 128
"""Rows and columns of a block."""
MAX_VALUES = 256
"""Most distinct values of a slice on a grid of 8 bits."""
MIN_SHARE = 0.99
"""Share of the slices that must lie on a grid."""
SAMPLED, VERIFIED = 32, 1 << 16
"""Most slices to look at first, and for the verdict: one takes 20 microseconds."""
GROUP_SIZES = (256, 128, 64, 32, 16)
VALUES: Mapping[str, tuple[int, Floats]] = {
    "E2M1": (4, np.array([0.5, 1, 1.5, 2, 3, 4, 6])),
    "E4M3": (8, np.array([k / 8 * 2.0**-6 for k in range(1, 8)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16)
                                                                   for m in range(8)][:-1])),
}  # fmt: skip
"""Name -> bits of a code, and the positive values; a NaN takes the largest pattern of E4M3."""
ROUNDING = {"BF16": 2.0**-8, "F16": 2.0**-10, "F32": 2.0**-22, "F64": 2.0**-22}
"""Dtype -> relative error of a value times a scale: those of the product and of the stored scale."""
PEAKS = 9
"""Values to try as a slice's largest: an octave, beyond which a power of two in the scale says the same."""


def slicings(info: TensorInfo) -> list[QuantSpec]:
    """Return settings whose slices may have a grid, the largest slices first; none for small and Fortran-order tensors.

    Slices are the tensor, its rows and groups of 256 to 16.
    """
    if info.fortran_order or not info.shape or info.num_elements < GROUP_SIZES[-1]:
        return []
    specs = [QuantSpec(), *([QuantSpec(axis=0)] if len(info.shape) > 1 else [])]
    specs += [QuantSpec(group_size=size) for size in GROUP_SIZES]
    return [spec for spec in specs if fits(info, spec)]


def find_float_grid(
    reader: ShardReader, info: TensorInfo, check: Callable[[], None]
) -> tuple[str, int, QuantSpec | None, float] | None:
    """Return (values, bits, slices, share of slices on the grid), for the largest such slices; None without a grid.

    Slices are None for blocks. `check` is called regularly and may raise.
    """
    specs: list[QuantSpec | None] = [*slicings(info)]
    if not specs:
        return None
    if len(info.shape) == 2 and min(info.shape) >= BLOCK:
        specs.insert(2, None)
    for name, (bits, values) in VALUES.items():
        smallest = specs[-1]
        if _share(reader, info, smallest, values, check, SAMPLED) < MIN_SHARE:
            continue  # a grid of large slices is one of small slices too
        for spec in specs:
            if _share(reader, info, spec, values, check, SAMPLED) >= MIN_SHARE:
                share = _share(reader, info, spec, values, check, VERIFIED)
                if share >= MIN_SHARE:
                    return name, bits, spec, share
    return None


def _share(
    reader: ShardReader, info: TensorInfo, spec: QuantSpec | None, values: Floats, check: Callable[[], None],
    limit: int,
) -> float:  # fmt: skip
    """Return the share of the slices on the grid, up to the `limit`th with several values; 0 early."""
    total = fitting = several = 0
    slices = _blocks(reader, info, check) if spec is None else distinct_values(reader, info, spec, check, np.abs)
    for x in slices:
        total += 1
        several += len(x) > 1
        fitting += len(x) <= 1 or _fits(x, values, info.dtype.name)
        if total - fitting > (1 - MIN_SHARE) * max(total, 100):
            return 0.0
        if several >= limit:
            break
    return fitting / total if several else 0.0


def _fits(x: Floats, values: Floats, dtype: str) -> bool:
    """Tell whether distinct magnitudes are these values times one scale."""
    if len(x) > MAX_VALUES or not np.isfinite(x).all():
        return False
    size, rounding = x[x > 0], ROUNDING[dtype]
    middles = (values[1:] + values[:-1]) / 2
    for peak in values[-PEAKS:]:
        nearest = values[np.searchsorted(middles, size * (peak / size[-1]))]
        scale = size / nearest
        if scale.max() * (1 - rounding) <= scale.min() * (1 + rounding):
            return True
    return False


def distinct_values(
    reader: ShardReader, info: TensorInfo, spec: QuantSpec, check: Callable[[], None],
    function: Callable[[Floats], Floats],
) -> Iterator[Floats]:  # fmt: skip
    """Yield the distinct values of each slice after `function`, ascending; of one with too many, a part at once."""
    layout = layout_of(info, spec)
    number, held = 0, np.empty(0)
    for start, x in blocks(reader, info, layout, check):
        values, begin = function(x), 0
        while begin < len(values):
            stop = min(layout.start_of(number + 1) - start, len(values))
            if len(held) <= MAX_VALUES:
                held = np.union1d(held, values[begin:stop])
                if len(held) > MAX_VALUES:
                    yield held
            begin = stop
            if start + stop == layout.start_of(number + 1):
                if len(held) <= MAX_VALUES:
                    yield held
                number, held = number + 1, np.empty(0)


def _blocks(reader: ShardReader, info: TensorInfo, check: Callable[[], None]) -> Iterator[Floats]:
    """Yield the distinct magnitudes of each block of a matrix; those at its edges are smaller."""
    rows, columns = info.shape
    for first in range(0, rows, BLOCK):
        check()
        band = np.abs(read_floats(reader, info, (first * columns, min(first + BLOCK, rows) * columns)))
        for block in np.split(band.reshape(-1, columns), range(BLOCK, columns, BLOCK), axis=1):
            yield np.unique(block)
