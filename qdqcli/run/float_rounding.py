"""Plain rounding to FP8 and FP4: what a weight would lose at least that is stored with such codes.

A block's scale brings its largest magnitude to the largest value, as the format's own tools do: as a float, as a power
of two that may clip it (OCP's Microscaling formats), or as an E4M3 number, times one of the tensor (NVFP4).
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qdqcli.tensors.packed.storage import Block, Grid, Scales, Values

Floats = NDArray[np.float32]

_KINDS: Mapping[Values, tuple[type[np.generic], float]] = {
    Values.E4M3: (ml_dtypes.float8_e4m3fn, 448.0),
    Values.E5M2: (ml_dtypes.float8_e5m2, 57344.0),
    Values.E2M1: (ml_dtypes.float4_e2m1fn, 6.0),
}
"""Values -> their dtype and the largest."""


def is_known(grid: Grid) -> bool:
    """Tell whether plain rounding to the grid is defined here."""
    return grid.values in _KINDS


def rounding_energies(x: Floats, block: Block, grid: Grid, peak: float | None, largest: float) -> tuple[float, float]:
    """Return the energies of some rows and of the error of rounding them; each block of that size has a scale.

    `peak` is the largest magnitude that sets the scale of all, None where each block has its own; `largest` is that of
    the whole tensor.
    """
    height, width = block
    padded = np.pad(x, ((0, -x.shape[0] % height), (0, -x.shape[1] % width)))
    blocks = padded.reshape(-1, height, padded.shape[1] // width, width).swapaxes(1, 2).reshape(-1, height * width)
    peaks = np.abs(blocks).max(axis=-1, keepdims=True) if peak is None else np.full((1, 1), peak, np.float32)
    difference = _rounded(blocks, peaks, grid, largest) - blocks
    # No dot product: its library starts threads of its own.
    signal, noise = (np.square(values, dtype=np.float64).sum() for values in (blocks, difference))
    return float(signal), float(noise)


def _rounded(blocks: Floats, peaks: Floats, grid: Grid, largest: float) -> Floats:
    """Return blocks (a row each) rounded to the values of the grid, with scales by their peaks."""
    dtype, top = _KINDS[grid.values]
    scales = _scales(peaks, grid.scales, top, largest)
    scaled = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    codes = np.clip(scaled, -top, top).astype(dtype)
    return codes.astype(np.float32) * scales


def _scales(peaks: Floats, kind: Scales, top: float, largest: float) -> Floats:
    if kind == Scales.E8M0:
        exponents = np.frexp(peaks)[1] - np.frexp(np.float32(top))[1]
        powers: Floats = np.ldexp(np.float32(1), exponents).astype(np.float32)
        return np.where(peaks > 0, powers, np.float32(0))
    scales = peaks / np.float32(top)
    if kind == Scales.FLOATS:
        return scales
    e4m3, most = _KINDS[Values.E4M3]
    whole = np.float32(largest / (top * most) if kind == Scales.E4M3_AND_FLOAT else 1.0)
    stored: Floats = np.minimum(scales / (whole or 1), np.float32(most)).astype(e4m3).astype(np.float32)
    return stored * whole
