"""GPTQ: integers packed along the input dimension, of a weight that is stored transposed.

Source: GPTQModel 7.7, `nn_modules/qlinear`, and auto-round 0.16, `auto_round_extension/torch`. Codes are dense, low
bits first, also at 3 bits, where 32 codes take three words. Version 1 of the format stores zero points less one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qdqcli.plain import Parsed
from qdqcli.tensors.packed.bits import dequantize, unpack
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, Stored, check_shape, damaged
from qdqcli.tensors.packed.format import CODES, GROUP_INDEX, SCALE, ZERO_POINT, PackedWeight
from qdqcli.tensors.packed.scales import group_index
from qdqcli.tensors.packed.storage import CodeGrid
from qdqcli.tensors.packed.values import as_float32

_WORD = 32


@dataclass(frozen=True, kw_only=True)
class _Gptq:
    """Words along the input dimension; scales and zero points of (groups, outputs)."""

    shape: tuple[int, ...]
    grid: CodeGrid
    zero_offset: int
    """What is added to a stored zero point; where none crosses two words to a word of them at once, as GPTQModel does:
    a zero point of 0 borrows."""

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        words = parts.transposed(CODES, start, stop)
        values = np.arange(1 << self.grid.bits, dtype=np.float32)
        stored = parts.columns(SCALE, start, stop).T
        scales = parts.check_finite(as_float32(stored, parts.info(SCALE).dtype.name))
        index = group_index(parts, scales.shape[1], self.grid.block[1])
        zeros = self._zero_points(parts, start, stop)
        dequantize(words, values, scales, zeros, size=self.grid.block[1], index=index, out=out)

    def _zero_points(self, parts: Parts, start: int, stop: int) -> Floats:
        """Return the zero points of rows [start, stop), a column per group."""
        bits = self.grid.bits
        if ZERO_POINT not in parts:
            return np.full((stop - start, 1), 1 << (bits - 1), np.float32)
        begin = start - start % _WORD
        words: Stored = parts.columns(ZERO_POINT, begin * bits // _WORD, -(-stop * bits // _WORD))
        offset = self.zero_offset
        if _WORD % bits == 0:
            ones = sum(offset << shift for shift in range(0, _WORD, bits))
            words, offset = words.view(np.uint32) + np.uint32(ones), 0
        codes = unpack(words, bits, stop - begin)[:, start - begin :].T
        return (codes + np.float32(offset)) % np.float32(1 << bits)


def gptq(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of GPTQ, versions 1 and 2 of the format.

    Raises:
        MalformedError: the parts contradict each other, or the codes are in bit planes; names the tensor.
    """
    layout = str(weight.config.get("checkpoint_format", "gptq"))
    if layout not in ("gptq", "gptq_v2"):
        raise damaged(weight, CODES, f"its layout is '{layout}'; gptq and gptq_v2 are decoded")
    return _decoder(weight, parts, zero_offset=int(layout == "gptq"))


def auto_round(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of auto-round's own packing, which follows GPTQ, and of its exports for GPTQ kernels.

    Raises:
        MalformedError: the parts contradict each other; names the tensor.
    """
    packing = str(weight.config.get("packing_format", "auto_round:auto_gptq"))
    return _decoder(weight, parts, zero_offset=int("gptq" in packing and "gptqmodel" not in packing))


def _decoder(weight: PackedWeight, parts: Parts, *, zero_offset: int) -> Decoder:
    (words, outputs), (groups, _) = weight.parts[CODES].shape, weight.parts[SCALE].shape
    bits = _bits(weight)
    inputs = weight.parts[GROUP_INDEX].num_elements if GROUP_INDEX in parts else words * _WORD // bits
    if words != -(-inputs * bits // _WORD):
        raise damaged(weight, CODES, f"{words} words in a column do not hold {inputs} codes of {bits} bits")
    if not groups or not inputs:
        raise damaged(weight, SCALE, f"{groups} groups for {inputs} inputs")
    if ZERO_POINT not in parts and _declared(weight).get("sym") is False:
        raise damaged(weight, CODES, "no qzeros beside it, but the configuration says that it is not symmetric")
    if GROUP_INDEX not in parts and _declared(weight).get("desc_act") is True and groups > 1:
        raise damaged(weight, CODES, "no g_idx beside it, but the configuration says desc_act")
    check_shape(weight, GROUP_INDEX, (inputs,))
    check_shape(weight, ZERO_POINT, (groups, -(-outputs * bits // _WORD)))
    size = _declared(weight).get("group_size")
    if not isinstance(size, int) or size < 1 or -(-inputs // size) != groups:
        size = -(-inputs // groups)
    is_symmetric = ZERO_POINT not in parts or bool(_declared(weight).get("sym", False))
    grid = CodeGrid(bits, (1, min(size, inputs)), is_symmetric=is_symmetric)
    return _Gptq(shape=(outputs, inputs), grid=grid, zero_offset=zero_offset)


def _bits(weight: PackedWeight) -> int:
    """Return the bits that the shapes of the parts, else the configuration, say."""
    parts, words = weight.parts, weight.parts[CODES].shape[0]
    if GROUP_INDEX in parts:
        bits = words * _WORD // max(parts[GROUP_INDEX].num_elements, 1)
    elif ZERO_POINT in parts:
        bits = parts[ZERO_POINT].num_elements * _WORD // max(parts[SCALE].num_elements, 1)
    else:
        bits = _declared(weight).get("bits", 0)
    if not isinstance(bits, int) or not 2 <= bits <= 8:
        raise damaged(weight, CODES, f"codes of {bits} bits, by the shapes of its parts; 2 to 8 are decoded")
    return bits


def _declared(weight: PackedWeight) -> Parsed:
    """Return the settings of the weight's layer."""
    layers = weight.config.get("extra_config")
    layer = layers.get(weight.name.removesuffix(".weight")) if isinstance(layers, Mapping) else None
    return {**weight.config, **layer} if isinstance(layer, Mapping) else weight.config
