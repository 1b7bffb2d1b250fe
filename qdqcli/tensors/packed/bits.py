"""Codes of 1 to 8 bits in bytes or words, as values of a table."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def unpack(stored: NDArray[Any], bits: int, count: int) -> Bytes:
    """Return the first `count` codes of each row, stored low bits first and dense across bytes and words.

    Eight codes take `bits` bytes, which are shifted as one word of 64 bits: a tenth of the time that single bits take.
    """
    data = np.ascontiguousarray(stored).view(np.uint8)
    if bits == 8:
        return data[:, :count]
    height, groups = len(data), -(-count // 8)
    words = np.zeros((height, groups, 8), np.uint8)
    whole = min(data.shape[1] // bits, groups)
    words[:, :whole, :bits] = data[:, : whole * bits].reshape(height, whole, bits)
    if whole < groups:
        words[:, whole, : data.shape[1] - whole * bits] = data[:, whole * bits :]
    codes = np.empty((height, groups, 8), np.uint8)
    for index in range(8):
        codes[:, :, index] = (words.view("<u8")[:, :, 0] >> np.uint64(index * bits)) & np.uint64((1 << bits) - 1)
    return codes.reshape(height, -1)[:, :count]


def unpack_padded(words: NDArray[Any], bits: int, count: int) -> Bytes:
    """Return the first `count` codes of each row, stored in 32-bit words without a code that crosses two of them."""
    shifts = np.arange(0, 32 - bits + 1, bits, dtype=np.uint32)
    codes = (words.view(np.uint32)[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)[:, :count]


def look_up(stored: NDArray[Any], values: Floats, count: int, *, is_dense: bool = True) -> Floats:
    """Return the values of the first `count` codes of each row; `values` has one for each code, 16 for 4 bits.

    Codes are stored low bits first, as `unpack` reads them, or `unpack_padded` where they are not dense. Of 4 and 8
    bits two bytes are looked up at once, which halves the indices.
    """
    bits = len(values).bit_length() - 1
    if bits not in (4, 8):
        return values.take((unpack if is_dense else unpack_padded)(stored, bits, count))
    data = np.ascontiguousarray(stored).view(np.uint8)
    if data.shape[1] % 2:
        data = np.pad(data, ((0, 0), (0, 1)))
    found: Floats = _of_two_bytes(values.tobytes()).take(data.view("<u2"), mode="wrap").view(np.float32)
    return found[:, :count]


@lru_cache(maxsize=8)
def _of_two_bytes(values: bytes) -> NDArray[Any]:
    """Return the values of the codes in each pair of bytes: four float32 as one element, or two."""
    table = np.frombuffer(values, np.float32)
    bits = 4 if len(table) == 16 else 8
    shifts = np.arange(0, 16, bits, dtype=np.uint32)
    codes = (np.arange(1 << 16, dtype=np.uint32)[:, None] >> shifts) & np.uint32(len(table) - 1)
    found: NDArray[Any] = table[codes].view(np.complex128 if bits == 4 else np.uint64)[:, 0]
    return found


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
