"""FP4 codes of stacked experts, whose weights are (experts, inputs, outputs): groups share a scale down a column.

gpt-oss stores MXFP4 transposed, ModelOpt NVFP4 two rows in a byte. Source: transformers 5.24, `integrations/mxfp4.py`;
ModelOpt 0.47, `export/unified_export_hf.py`.
"""

from dataclasses import dataclass

import numpy as np

from qdqcli.tensors.packed.bits import dequantize
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import CODES, SCALE, PackedWeight
from qdqcli.tensors.packed.scales import global_scale
from qdqcli.tensors.packed.storage import CodeGrid, Scales, Values
from qdqcli.tensors.packed.values import E2M1, as_float32
from qdqcli.tensors.tensor import plain_shape

_GROUP, _NV = 32, 16
"""Rows that share a scale in MXFP4 and NVFP4."""


@dataclass(frozen=True, kw_only=True)
class _Mxfp4:
    """Codes of (experts, outputs, groups, 16 bytes)."""

    shape: tuple[int, ...]
    grid: CodeGrid

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        inputs = self.shape[-2]
        for index in range(start // inputs, -(-stop // inputs)):
            begin, end = max(start, index * inputs), min(stop, (index + 1) * inputs)
            self._matrix(parts, index, begin - index * inputs, end - index * inputs, out[begin - start : end - start])

    def _matrix(self, parts: Parts, index: int, start: int, stop: int, out: Floats) -> None:
        """Fill `out` with rows [start, stop) of one expert's matrix."""
        inputs, outputs = self.shape[-2:]
        groups, first, last = inputs // _GROUP, start // _GROUP, -(-stop // _GROUP)
        codes = parts.matrix(CODES, index, outputs * groups).reshape(outputs, groups, -1)[:, first:last]
        scales = as_float32(parts.matrix(SCALE, index, outputs)[:, first:last], "F8_E8M0")
        found = np.empty((outputs, (last - first) * _GROUP), np.float32)
        dequantize(codes.reshape(outputs, -1), E2M1, parts.check_finite(scales), size=_GROUP, out=found)
        out[:] = found[:, start - first * _GROUP : stop - first * _GROUP].T


def mxfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of gpt-oss; the shapes of codes and scales were checked when they were recognised."""
    del parts
    *lead, outputs, groups, _ = weight.parts[CODES].shape
    grid = CodeGrid(4, (_GROUP, 1), Values.E2M1, Scales.E8M0)
    return _Mxfp4(shape=(*lead, groups * _GROUP, outputs), grid=grid)


@dataclass(frozen=True, kw_only=True)
class _Nvfp4:
    """Codes of (experts, inputs / 2, outputs), scales of (experts, inputs / 16, outputs)."""

    shape: tuple[int, ...]
    grid: CodeGrid

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        rows = np.arange(start, stop)
        pairs, groups = (parts.rows(role, start // n, -(-stop // n)) for role, n in ((CODES, 2), (SCALE, _NV)))
        scales = parts.check_finite(as_float32(groups, "F8_E4M3") * global_scale(parts))
        codes = pairs[rows // 2 - start // 2] >> (4 * (rows % 2)).astype(np.uint8)[:, None]
        np.multiply(E2M1[codes & 15], scales[rows // _NV - start // _NV], out=out)


def nvfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of ModelOpt.

    Raises:
        MalformedError: the parts contradict each other; names the tensor.
    """
    *lead, pairs, outputs = weight.parts[CODES].shape
    if not lead or 2 * pairs % _NV:
        raise damaged(weight, CODES, f"its shape is {plain_shape(weight.parts[CODES].shape)}")
    check_shape(weight, SCALE, (*lead, 2 * pairs // _NV, outputs))
    global_scale(parts)
    grid = CodeGrid(4, (_NV, 1), Values.E2M1, Scales.E4M3_AND_FLOAT)
    return _Nvfp4(shape=(*lead, 2 * pairs, outputs), grid=grid)
