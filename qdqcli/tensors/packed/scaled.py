"""Weights stored row by row as 8-bit or 4-bit codes, each times the scale of its tensor, row, group or block.

Integers and FP8, one code per byte; FP4 (E2M1), two codes per byte, low nibble first. Scales are floating-point numbers
or powers of two (E8M0); a global scale, where there is one, is combined with them in float32 first, as libraries do.
"""

from dataclasses import dataclass

import numpy as np

from qdqcli.escape import MalformedError
from qdqcli.tensors.packed.bits import dequantize, swap_nibbles
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import (
    CODES,
    E8M0,
    FORMAT,
    FP8,
    GLOBAL_SCALE,
    INPUT_SCALE,
    SCALE,
    ZERO_POINT,
    PackedWeight,
)
from qdqcli.tensors.packed.scales import ScaleGrid, global_scale
from qdqcli.tensors.packed.storage import Block, CodeGrid, Scales, Values
from qdqcli.tensors.packed.values import E2M1, table
from qdqcli.tensors.strict_json import parse_object
from qdqcli.tensors.tensor import plain_shape

_MX, _NV = 32, 16
"""Codes that share a scale in MXFP4 and MXFP8, and in NVFP4."""


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Codes whose values a table gives."""

    shape: tuple[int, ...]
    grid: CodeGrid
    values: Floats
    """Value of each code: 16 or 256."""
    scales: ScaleGrid
    zero_points: ScaleGrid | None = None
    divides: bool = False
    """The global scale divides."""
    is_high_first: bool = False
    """The high nibble of a byte comes first."""
    factor: float = 1.0
    """Constant by which each product is multiplied."""

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        zeros = None if self.zero_points is None else self.zero_points.rows(parts, start, stop)
        scales, size = self._scales(parts, start, stop), self.scales.block[1]
        stored = parts.rows(CODES, start, stop)
        if self.is_high_first:
            stored = swap_nibbles(stored)
        dequantize(stored, self.values, scales, zeros, size=size, out=out)
        if self.factor != 1.0:
            out *= np.float32(self.factor)
        if INPUT_SCALE in parts:
            out *= parts.check_finite(parts.floats(INPUT_SCALE).reshape(1, -1), INPUT_SCALE)

    def _scales(self, parts: Parts, start: int, stop: int) -> Floats:
        scales = self.scales.rows(parts, start, stop)
        if GLOBAL_SCALE not in parts:
            return scales
        factor = global_scale(parts)
        if self.divides and not factor:
            raise parts.damaged(GLOBAL_SCALE, "it is 0 and divides")
        return scales / factor if self.divides else scales * factor


def plain(
    weight: PackedWeight, parts: Parts, *, block: Block | None = None, has_8_bits: bool = True, factor: float = 1.0
) -> Decoder:
    """Return the decoder of a code per byte: I8 or FP8.

    `block` is the size of a block where it is known; `has_8_bits` is False where integers may use fewer.

    Raises:
        MalformedError: the parts contradict each other; names the tensor.
    """
    codes = weight.parts[CODES]
    if codes.dtype.name == "I8":
        values = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32)
    elif codes.dtype.name in FP8:
        values = table(codes.dtype.name)
    else:
        raise damaged(weight, CODES, f"a layout of {codes.dtype.name}; a code per byte, I8 or FP8, is decoded")
    kind = {"I8": Values.INTEGERS if has_8_bits else Values.OTHERS, "F8_E4M3": Values.E4M3, "F8_E5M2": Values.E5M2}
    scales = ScaleGrid.of(weight, codes.shape, block=block)
    zeros = ScaleGrid.of(weight, codes.shape, ZERO_POINT, block=scales.block) if ZERO_POINT in parts else None
    kinds = kind.get(codes.dtype.name, Values.OTHERS), Scales.E8M0 if scales.dtype == "F8_E8M0" else Scales.FLOATS
    grid = CodeGrid(8, scales.block, *kinds, is_symmetric=zeros is None)
    return Scaled(shape=codes.shape, grid=grid, values=values, scales=scales, zero_points=zeros, factor=factor)


def torchao(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of Int8Tensor, Float8Tensor and IntxUnpackedToInt8Tensor; other types hold kernel layouts."""
    if SCALE not in parts:
        raise damaged(weight, CODES, "no scale beside it")
    codes, scales = weight.parts[CODES].shape, weight.parts[SCALE].shape
    is_groups = len(codes) == len(scales) and codes[:-1] == scales[:-1] and scales[-1] and codes[-1] % scales[-1] == 0
    block = (1, codes[-1] // scales[-1]) if is_groups else None  # torchao has whole groups alone
    return plain(weight, parts, block=block, has_8_bits=False)


def quanto(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of int8 and FP8; fewer bits are in an order of groups that depends on the tensor's shape."""
    if ZERO_POINT in parts:
        raise damaged(weight, ZERO_POINT, "weights with a shift are not decoded")
    return plain(weight, parts)


def comfyui(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP8 and INT8 with a scale per tensor or row, and of MXFP8.

    Raises:
        MalformedError: the parts contradict each other, or the weight is rotated; names the tensor.
    """
    codes = weight.parts[CODES]
    _check_mark(weight, parts)
    if weight.parts[SCALE].dtype.name not in E8M0:
        return plain(weight, parts)
    if codes.dtype.name not in FP8 or len(codes.shape) != 2:
        raise damaged(weight, CODES, f"a layout of {codes.dtype.name} in {len(codes.shape)} dimensions is not decoded")
    scales = ScaleGrid.tiled(weight, codes.shape, _MX, "F8_E8M0")
    values = Values.E4M3 if codes.dtype.name == "F8_E4M3" else Values.E5M2
    grid = CodeGrid(8, scales.block, values, Scales.E8M0)
    return Scaled(shape=codes.shape, grid=grid, values=table(codes.dtype.name), scales=scales)


def comfyui_nvfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of NVFP4 with the high nibble first and its scales in tiles (comfy-kitchen 0.2)."""
    shape = weight.parts[CODES].shape
    _check_mark(weight, parts)
    global_scale(parts)
    if len(shape) != 2 or shape[1] % 8:
        raise damaged(weight, CODES, f"its shape is {plain_shape(shape)}, expected rows of 16 codes in 8 bytes")
    return _fp4(weight, ScaleGrid.tiled(weight, _pairs(shape), _NV, "F8_E4M3"), is_high_first=True)


def _check_mark(weight: PackedWeight, parts: Parts) -> None:
    """Refuse a weight whose `comfy_quant` says that it is rotated."""
    if FORMAT not in parts:
        return
    try:
        mark = parse_object(parts.whole(FORMAT).tobytes())
    except MalformedError as error:
        raise damaged(weight, FORMAT, str(error)) from error
    rotation = next((key for key in mark if "rot" in key and mark[key]), None)
    if rotation is not None:
        raise damaged(weight, FORMAT, f"it says {rotation}: rotated weights are not decoded")


def fp8(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP8 with a scale per tensor, row or block, of the size that the configuration declares."""
    match weight.config.get("weight_block_size"):
        case [int(height), int(width)] if min(height, width) > 0 and weight.parts[SCALE].num_elements > 1:
            return plain(weight, parts, block=(height, width))
    return plain(weight, parts)


def deepseek_v4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP8 with a power of two per block, or of two FP4 codes per byte with one per 32."""
    return mxfp4(weight, parts) if weight.parts[CODES].dtype.name == "I8" else fp8(weight, parts)


def bitsandbytes_int8(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of LLM.int8: the largest magnitude of each row is 127."""
    return plain(weight, parts, factor=7.874015718698502e-3)  # 1/127 as bitsandbytes multiplies it


def mxfp8(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP8 with a power of two per 32 codes."""
    return plain(weight, parts, block=(1, _MX))


def mxfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP4 with a power of two per 32 codes."""
    del parts
    return _fp4(weight, ScaleGrid.of(weight, _pairs(weight.parts[CODES].shape), block=(1, _MX)))


def nvfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP4 with a scale per 16 codes, times one for the tensor."""
    global_scale(parts)
    return _fp4(weight, ScaleGrid.of(weight, _pairs(weight.parts[CODES].shape), block=(1, _NV)))


def nvfp4_inverse(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of FP4 with a scale per 16 codes, divided by one for the tensor (compressed-tensors)."""
    global_scale(parts)
    return _fp4(weight, ScaleGrid.of(weight, _pairs(weight.parts[CODES].shape), block=(1, _NV)), divides=True)


def _pairs(codes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight with two codes per byte."""
    return *codes[:-1], 2 * codes[-1]


def _fp4(weight: PackedWeight, scales: ScaleGrid, *, divides: bool = False, is_high_first: bool = False) -> Decoder:
    shape = _pairs(weight.parts[CODES].shape)
    grid = CodeGrid(
        4, scales.block, Values.E2M1, Scales.E4M3_AND_FLOAT if GLOBAL_SCALE in weight.parts else Scales.E8M0
    )
    check_shape(weight, INPUT_SCALE, shape[-1:])
    return Scaled(shape=shape, grid=grid, values=E2M1, scales=scales, divides=divides, is_high_first=is_high_first)
