"""Codes of 1 to 8 bits in bytes or words, and the values that they stand for."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.arguments import PackedCodes

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_ZERO, _ONE = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
_NO_INDEX = np.empty(0, np.int32)


def unpack(stored: NDArray[Any], bits: int, count: int, *, is_dense: bool = True) -> Floats:
    """Return the first `count` codes of each row as numbers; see `dequantize`."""
    out = np.empty((len(stored), count), np.float32)
    dequantize(stored, np.arange(1 << bits, dtype=np.float32), _ONE, size=count, is_dense=is_dense, out=out)
    return out


def swap_nibbles(stored: Bytes) -> Bytes:
    """Return bytes whose nibbles are swapped."""
    swapped: Bytes = np.bitwise_or(stored << 4, stored >> 4)
    return swapped


def dequantize(
    stored: NDArray[Any],
    values: Floats,
    scales: Floats,
    zero_points: Floats | None = None,
    *,
    size: int,
    index: NDArray[np.int32] | None = None,
    is_dense: bool = True,
    out: Floats,
) -> None:
    """Fill `out` (rows, columns) with (value - zero point) * scale of the codes of each row.

    `values` has one for each code. Codes are stored low bits first, dense across bytes and words; where they are not
    dense, none crosses two 32-bit words, whose other bits are padding. Scales and zero points have a row per row or one
    for all, and a column per `size` columns; with `index`, which names a column of theirs for each code, in that one.
    """
    data = np.ascontiguousarray(stored).view(np.uint8)
    bits, (rows, count) = len(values).bit_length() - 1, out.shape
    per_word, groups = 0 if is_dense else 32 // bits, -(-count // size)
    zero_points = _ZERO if zero_points is None else zero_points
    if len(data) != rows or data.shape[1] < (-(-count // per_word) * 4 if per_word else -(-count * bits // 8)):
        raise ValueError(f"bytes of shape {data.shape} for {rows} rows of {count} codes of {bits} bits")
    for each in (scales, zero_points):
        if len(each) not in (1, rows) or (index is None and each.shape[1] not in (1, groups)):
            raise ValueError(f"scales of shape {each.shape} for {rows} rows of {groups} groups")
    codes = PackedCodes(data, bits, per_word, values)
    kernels.dequantize(
        codes, np.ascontiguousarray(scales), np.ascontiguousarray(zero_points), size,
        _NO_INDEX if index is None else index, np.empty(values.size, np.float32), out,
    )  # fmt: skip
