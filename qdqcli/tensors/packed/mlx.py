"""MLX: codes in 32-bit words, dense and low bits first; affine, or floating-point in the modes mxfp4, mxfp8, nvfp4.

Source: mlx 0.32, `quantize` and `dequantize`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdqcli.plain import Parsed
from qdqcli.tensors.packed.bits import dequantize
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import CODES, OFFSET, SCALE, PackedWeight
from qdqcli.tensors.packed.scaled import Scaled
from qdqcli.tensors.packed.scales import ScaleGrid
from qdqcli.tensors.packed.storage import CodeGrid, Scales, Values
from qdqcli.tensors.packed.values import E2M1, table
from qdqcli.tensors.tensor import plain_shape

_WORD = 32
_MODES = {4: (4, 32, "F8_E8M0"), 8: (8, 32, "F8_E8M0"), 2: (4, 16, "F8_E4M3")}
"""Words per scale -> bits, codes per scale and dtype of the scale: mxfp4, mxfp8, nvfp4."""


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """Unsigned codes, times the scale of their group, plus its offset."""

    shape: tuple[int, ...]
    grid: CodeGrid
    scales: ScaleGrid
    offsets: ScaleGrid

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        values, size = np.arange(1 << self.grid.bits, dtype=np.float32), self.grid.block[1]
        dequantize(parts.rows(CODES, start, stop), values, self.scales.rows(parts, start, stop), size=size, out=out)
        out += np.repeat(self.offsets.rows(parts, start, stop), size, axis=1)


def mlx(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of the weight's mode.

    Raises:
        MalformedError: the parts contradict each other or the configuration; names the tensor.
    """
    *lead, words = weight.parts[CODES].shape
    if len(weight.parts[SCALE].shape) != len(lead) + 1:
        raise damaged(
            weight, SCALE, f"its shape is {plain_shape(weight.parts[SCALE].shape)}, expected a scale per group"
        )
    groups = weight.parts[SCALE].shape[-1]
    if weight.parts[SCALE].dtype.name == "U8":
        return _floating(weight, words, groups)
    if OFFSET not in parts:
        raise damaged(weight, CODES, "no biases beside it")
    size = _settings(weight).get("group_size")
    if not isinstance(size, int) or size < 1 or not groups:
        raise damaged(weight, CODES, f"the group_size of the configuration, which says the bits, is {size!r}")
    shape = (*lead, groups * size)
    bits, rest = divmod(words * _WORD, shape[-1])
    if rest or not 1 <= bits <= 8:
        raise damaged(weight, CODES, f"{words} words in a row do not hold {groups} groups of {size}")
    declared = _settings(weight).get("bits", bits)
    if declared != bits:
        found = f"{words} words in a row and {groups} groups of {size} are {bits} bits"
        raise damaged(weight, CODES, f"{found}; the configuration says {declared!r}")
    check_shape(weight, OFFSET, weight.parts[SCALE].shape)
    scales, offsets = (ScaleGrid.of(weight, shape, role, block=(1, size)) for role in (SCALE, OFFSET))
    grid = CodeGrid(bits, (1, size), is_symmetric=False)
    return _Affine(shape=shape, grid=grid, scales=scales, offsets=offsets)


def _floating(weight: PackedWeight, words: int, groups: int) -> Decoder:
    """Return the decoder of mxfp4, mxfp8 or nvfp4: the number of words per scale tells which."""
    mode = _MODES.get(words // groups if groups and words % groups == 0 else 0)
    if mode is None:
        raise damaged(weight, CODES, f"{words} words in a row and {groups} scales are neither mxfp4, mxfp8 nor nvfp4")
    bits, size, dtype = mode
    shape = (*weight.parts[CODES].shape[:-1], groups * size)
    scales = ScaleGrid.of(weight, shape, block=(1, size), dtype=dtype)
    values = E2M1 if bits == 4 else table("F8_E4M3")
    kinds = Values.E2M1 if bits == 4 else Values.E4M3, Scales.E8M0 if dtype == "F8_E8M0" else Scales.E4M3
    return Scaled(shape=shape, grid=CodeGrid(bits, scales.block, *kinds), values=values, scales=scales)


def _settings(weight: PackedWeight) -> Parsed:
    """Return the settings of the weight's module, else those of the model."""
    own = weight.config.get(weight.name.removesuffix(".weight"))
    return own if isinstance(own, Mapping) else weight.config
