"""Codes of 1 to 8 bits in bytes or words, as values of a table."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def unpack(stored: NDArray[Any], bits: int, count: int) -> Bytes:
    """Return the first `count` codes of each row, stored low bits first and dense across bytes and words."""
    data = np.ascontiguousarray(stored).view(np.uint8)
    codes: Bytes
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = ((data[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(data), -1)[:, :count]
    else:
        single = np.unpackbits(data, axis=1, count=count * bits, bitorder="little")
        codes = np.packbits(single.reshape(len(data), count, bits), axis=2, bitorder="little")[:, :, 0]
    return codes


def unpack_padded(words: NDArray[Any], bits: int, count: int) -> Bytes:
    """Return the first `count` codes of each row, stored in 32-bit words without a code that crosses two of them."""
    shifts = np.arange(0, 32 - bits + 1, bits, dtype=np.uint32)
    codes = (words.view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)[:, :count]


def look_up(stored: NDArray[Any], values: Floats, count: int) -> Floats:
    """Return the values of the first `count` codes of each row; 16 or 256 values stand for codes of 4 or 8 bits.

    4-bit codes are stored low nibble first; both of a byte are looked up at once.
    """
    data = np.ascontiguousarray(stored).view(np.uint8)
    if len(values) == 256:
        return values.take(data[:, :count])
    both = np.empty((256, 2), np.float32)
    both[:, 0], both[:, 1] = np.tile(values, 16), np.repeat(values, 16)
    found: Floats = both.view(np.uint64)[:, 0].take(data).view(np.float32)
    return found[:, :count]


def swap_nibbles(stored: Bytes) -> Bytes:
    """Return bytes whose nibbles are swapped."""
    swapped: Bytes = np.bitwise_or(stored << 4, stored >> 4)
    return swapped


def dequantize(
    codes: Floats, scales: Floats, zero_points: Floats | None, size: int, index: NDArray[Any] | None = None
) -> Floats:
    """Return (code - zero point) * scale; may change `codes`.

    Scales and zero points have a column per group of `size` neighbouring columns, or, with `index`, a column that
    `index` names for each column of the codes.
    """
    if zero_points is not None and zero_points.any():
        codes = codes - _spread(zero_points, size, codes.shape[1], index)
    if index is None and scales.shape[1] > 1 and codes.shape[1] % size == 0:
        grouped = np.ascontiguousarray(codes).reshape(len(codes), -1, size)
        grouped *= scales[:, :, None]
        return grouped.reshape(codes.shape)
    values: Floats = codes * _spread(scales, size, codes.shape[1], index)
    return values


def _spread(columns: Floats, size: int, count: int, index: NDArray[Any] | None) -> Floats:
    """Return one column per code, or a single one that holds for all."""
    if columns.shape[1] == 1:
        return columns
    found: Floats = columns[:, index] if index is not None else np.repeat(columns, size, axis=1)[:, :count]
    return found
