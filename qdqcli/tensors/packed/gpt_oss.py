"""MXFP4 as gpt-oss stores its experts: FP4 codes in blocks of 32, of matrices that are stored transposed.

Source: transformers 5.24, `integrations/mxfp4.py`.
"""

from dataclasses import dataclass

import numpy as np

from qdqcli.tensors.packed.bits import dequantize
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts
from qdqcli.tensors.packed.format import CODES, SCALE, PackedWeight
from qdqcli.tensors.packed.storage import Grid, Scales, Values
from qdqcli.tensors.packed.values import E2M1, as_float32

_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class _Experts:
    """Codes of (experts, outputs, groups, 16 bytes); the weight is (experts, inputs, outputs)."""

    shape: tuple[int, ...]
    grid: Grid

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
    """Return the decoder of experts; the shapes of codes and scales were checked when they were recognised."""
    del parts
    *lead, outputs, groups, _ = weight.parts[CODES].shape
    grid = Grid(4, (_GROUP, 1), Values.E2M1, Scales.E8M0)
    return _Experts(shape=(*lead, groups * _GROUP, outputs), grid=grid)
