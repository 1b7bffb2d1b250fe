"""Plain rounding to FP8 and FP4: what a weight would lose at least that is stored with such codes.

A block's scale brings its largest magnitude to the largest value, as the format's own tools do: as a float, as a power
of two that may clip it (OCP's Microscaling formats), or as an E4M3 number, times one of the tensor (NVFP4).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.tensors.packed.storage import Block, CodeGrid, Scales, Values

Floats = NDArray[np.float32]


class Minifloat(NamedTuple):
    """A floating-point format of few bits."""

    mantissa_bits: int
    least_exponent: int
    """Exponent of the smallest normal number."""
    largest: float

    def nearest(self, x: Floats) -> Floats:
        """Return the nearest number of the format, ties to even; beyond the largest that one.

        A step between numbers is a power of two, which the exponent bits of float32 give: a tenth of the time of casts.
        """
        clipped = np.clip(x, np.float32(-self.largest), np.float32(self.largest))
        exponents = np.maximum(clipped.view(np.int32) & 0x7F800000, 127 + self.least_exponent << 23)
        steps = (exponents - (self.mantissa_bits << 23)).view(np.float32)
        rounded: Floats = np.rint(clipped / steps) * steps
        return rounded


KINDS: Mapping[Values, Minifloat] = {
    Values.E4M3: Minifloat(3, -6, 448.0),
    Values.E5M2: Minifloat(2, -14, 57344.0),
    Values.E2M1: Minifloat(1, 0, 6.0),
}


def is_known(grid: CodeGrid) -> bool:
    """Tell whether plain rounding to the grid is defined here."""
    return grid.values in KINDS


def finite(x: Floats) -> Floats:
    """Return elements with 0 in the place of NaN and infinities."""
    return np.where(np.isfinite(x), x, np.float32(0))


def rounding_energies(
    x: Floats, block: Block, grid: CodeGrid, peak: float | None, largest: float
) -> tuple[float, float]:
    """Return the energies of some rows and of the error of rounding them; each block of that size has a scale.

    Elements that are NaN or infinite are left out.

    `peak` is the largest magnitude that sets the scale of all, None where each block has its own; `largest` is that of
    the whole tensor.
    """
    height, width = block
    padded = np.pad(finite(x), ((0, -x.shape[0] % height), (0, -x.shape[1] % width)))
    blocks = padded.reshape(-1, height, padded.shape[1] // width, width).swapaxes(1, 2).reshape(-1, height * width)
    with np.errstate(over="ignore", invalid="ignore"):  # of float64 beyond float32
        peaks = np.abs(blocks).max(axis=-1, keepdims=True) if peak is None else np.full((1, 1), peak, np.float32)
        difference = _rounded(blocks, peaks, grid, largest) - blocks
    # No dot product: its library starts threads of its own.
    signal, noise = (np.square(values, dtype=np.float64).sum() for values in (blocks, difference))
    return float(signal), float(noise)


def _rounded(blocks: Floats, peaks: Floats, grid: CodeGrid, largest: float) -> Floats:
    """Return blocks (a row each) rounded to the values of the grid, with scales by their peaks."""
    kind = KINDS[grid.values]
    scales = _scales(peaks, grid.scales, kind.largest, largest)
    scaled = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    return kind.nearest(scaled) * scales


def _scales(peaks: Floats, kind: Scales, top: float, largest: float) -> Floats:
    if kind == Scales.E8M0:
        exponents = np.frexp(peaks)[1] - np.frexp(np.float32(top))[1]
        powers: Floats = np.ldexp(np.float32(1), exponents).astype(np.float32)
        return np.where(peaks > 0, powers, np.float32(0))
    scales = peaks / np.float32(top)
    if kind == Scales.FLOATS:
        return scales
    e4m3 = KINDS[Values.E4M3]
    whole = np.float32(largest / (top * e4m3.largest) if kind == Scales.E4M3_AND_FLOAT else 1.0)
    return e4m3.nearest(scales / (whole or 1)) * whole
