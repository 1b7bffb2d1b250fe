"""MXFP4 as gpt-oss stores its experts: FP4 codes in blocks of 32, of matrices that are stored transposed.

Source: transformers 5.24, `integrations/mxfp4.py`.
"""

from dataclasses import dataclass

import numpy as np

from qdqcli.tensors.packed.bits import look_up
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts
from qdqcli.tensors.packed.format import CODES, SCALE, PackedWeight
from qdqcli.tensors.packed.storage import Grid
from qdqcli.tensors.packed.values import E2M1, as_float32

_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class _Experts:
    """Codes of (experts, outputs, groups, 16 bytes); the weight is (experts, inputs, outputs)."""

    shape: tuple[int, ...]
    grid: Grid

    def rows(self, parts: Parts, start: int, stop: int) -> Floats:
        inputs = self.shape[-2]
        found = [
            self._matrix(parts, index, max(start - index * inputs, 0), min(stop - index * inputs, inputs))
            for index in range(start // inputs, -(-stop // inputs))
        ]
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _matrix(self, parts: Parts, index: int, start: int, stop: int) -> Floats:
        """Return rows [start, stop) of one expert's matrix."""
        inputs, outputs = self.shape[-2:]
        groups, first, last = inputs // _GROUP, start // _GROUP, -(-stop // _GROUP)
        codes = parts.matrix(CODES, index, outputs * groups).reshape(outputs, groups, -1)[:, first:last]
        scales = as_float32(parts.matrix(SCALE, index, outputs)[:, first:last], "F8_E8M0")
        values = look_up(codes.reshape(outputs, -1), E2M1, (last - first) * _GROUP)
        grouped = values.reshape(outputs, -1, _GROUP) * parts.check_finite(scales)[:, :, None]
        begin = first * _GROUP
        return np.ascontiguousarray(grouped.reshape(outputs, -1)[:, start - begin : stop - begin].T)


def mxfp4(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of experts; the shapes of codes and scales were checked when they were recognised."""
    del parts
    *lead, outputs, groups, _ = weight.parts[CODES].shape
    return _Experts(shape=(*lead, groups * _GROUP, outputs), grid=Grid(4, (_GROUP, 1), is_integer=False))
