"""AWQ: 4-bit integers of a transposed weight, eight outputs in a word.

Source: AutoAWQ 0.2.9, `modules/linear/gemm.py`. The nibbles of a word, low first, hold outputs 0 2 4 6 1 3 5 7.
"""

from dataclasses import dataclass

import numpy as np

from qdqcli.tensors.packed.bits import Bytes, dequantize
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import CODES, SCALE, ZERO_POINT, PackedWeight
from qdqcli.tensors.packed.storage import CodeGrid
from qdqcli.tensors.packed.values import as_float32

_BYTES = np.arange(256, dtype=np.float32)
_NIBBLE_OF = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output of a word -> its nibble."""


@dataclass(frozen=True, kw_only=True)
class _Awq:
    """Words along the output dimension; scales of (groups, outputs)."""

    shape: tuple[int, ...]
    grid: CodeGrid

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        size = self.grid.block[1]
        scales = parts.check_finite(as_float32(parts.columns(SCALE, start, stop).T, parts.info(SCALE).dtype.name))
        codes, zeros = (self._codes(parts, role, start, stop) for role in (CODES, ZERO_POINT))
        dequantize(codes, _BYTES, scales, zeros.astype(np.float32), size=size, out=out)

    def _codes(self, parts: Parts, role: str, start: int, stop: int) -> Bytes:
        """Return the codes of outputs [start, stop), a row of bytes each."""
        begin, end = start // 8, -(-stop // 8)
        words = parts.transposed(role, begin, end).view(np.uint32)
        codes = np.empty((len(words), 8, words.shape[1]), np.uint8)
        for output, nibble in enumerate(_NIBBLE_OF):
            np.bitwise_and(words >> np.uint32(4 * nibble), 15, out=codes[:, output], casting="unsafe")
        return codes.reshape(-1, words.shape[1])[start - 8 * begin : stop - 8 * begin]


def awq(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of the layout `gemm`.

    Raises:
        MalformedError: another layout, or the parts contradict each other; names the tensor.
    """
    del parts
    (inputs, words), (groups, _) = weight.parts[CODES].shape, weight.parts[SCALE].shape
    bits, layout = weight.config.get("bits", 4), str(weight.config.get("version", "gemm")).lower()
    if bits != 4 or layout != "gemm":
        raise damaged(weight, CODES, f"{bits} bits in layout '{layout}'; 4 bits in 'gemm' are decoded")
    if not groups or inputs % groups:
        raise damaged(weight, SCALE, f"{groups} groups do not divide {inputs} inputs")
    check_shape(weight, SCALE, (groups, 8 * words))
    check_shape(weight, ZERO_POINT, (groups, words))
    return _Awq(shape=(8 * words, inputs), grid=CodeGrid(4, (1, inputs // groups), is_symmetric=False))
