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


def spread(scales: Floats, size: int, count: int) -> Floats:
    """Return one scale per column: each stands for `size` columns, the last for those that are left of `count`."""
    return np.repeat(scales, size, axis=-1)[..., :count]


def scale_groups(values: Floats, scales: Floats, size: int) -> Floats:
    """Multiply values (rows, columns) in place by one scale per group of `size` columns (rows, groups)."""
    count = values.shape[1]
    if scales.shape[1] == 1:
        values *= scales
    elif count % size == 0 and values.flags.c_contiguous:
        grouped = values.reshape(len(values), -1, size)
        grouped *= scales[:, :, None]
    else:
        values *= spread(scales, size, count)
    return values
