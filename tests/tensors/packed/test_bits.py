"""Codes in bytes and words, against one bit at a time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qdqcli.tensors.packed.bits import dequantize, swap_nibbles, unpack

Floats = NDArray[np.float32]
RNG = np.random.default_rng(1)


def packed(codes: NDArray[np.uint8], bits: int, *, is_dense: bool) -> NDArray[np.uint8]:
    """Rows of bytes."""
    if is_dense:
        single = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little").reshape(len(codes), -1)
        return np.packbits(single, axis=1, bitorder="little")
    per_word = 32 // bits
    whole = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word))).reshape(len(codes), -1, per_word)
    words = (whole.astype(np.uint32) << (np.arange(per_word, dtype=np.uint32) * bits)).sum(-1, dtype=np.uint32)
    return words.view(np.uint8)


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 31, 32, 33, 100])
def test_codes(bits: int, count: int, is_dense: bool) -> None:
    codes = RNG.integers(0, 1 << bits, (3, count), dtype=np.uint8)
    assert np.array_equal(unpack(packed(codes, bits, is_dense=is_dense), bits, count, is_dense=is_dense), codes)


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 9, 10, 33])
@pytest.mark.parametrize("size", [1, 3, 4, 64])
def test_values_scales_and_zero_points(bits: int, count: int, size: int, is_dense: bool) -> None:
    values = RNG.standard_normal(1 << bits).astype(np.float32)
    codes = RNG.integers(0, 1 << bits, (5, count), dtype=np.uint8)
    groups = -(-count // size)
    scales, zeros = RNG.standard_normal((2, 5, groups)).astype(np.float32)
    of = np.arange(count) // size
    index = RNG.integers(0, groups, count, np.int32)
    stored = packed(codes, bits, is_dense=is_dense)

    def call(scales: Floats, zeros: Floats | None = None, index: NDArray[np.int32] | None = None) -> Floats:
        out = np.empty((5, count), np.float32)
        dequantize(stored, values, scales, zeros, size=size, index=index, is_dense=is_dense, out=out)
        return out

    assert np.array_equal(call(scales, zeros), (values[codes] - zeros[:, of]) * scales[:, of])
    assert np.array_equal(call(scales), values[codes] * scales[:, of])
    assert np.array_equal(call(scales, zeros, index), (values[codes] - zeros[:, index]) * scales[:, index])
    one = scales[:1, :1]
    assert np.array_equal(call(one, zeros), (values[codes] - zeros[:, of]) * one)
    assert np.array_equal(call(one, one, index), (values[codes] - one) * one)


def test_negative_zero_stays() -> None:
    values, out = np.array([-0.0, 1], np.float32), np.empty((1, 8), np.float32)
    dequantize(np.zeros((1, 1), np.uint8), values, np.ones((1, 1), np.float32), size=8, out=out)
    assert np.signbit(out).all()


def test_high_nibble_first() -> None:
    data = RNG.integers(0, 256, (2, 5), dtype=np.uint8)
    high_first = np.stack([data >> 4, data & 15], -1).reshape(2, -1)
    assert np.array_equal(unpack(swap_nibbles(data), 4, 10), high_first)


def test_too_few_bytes_or_scales_are_never_read() -> None:
    values, one = np.zeros(16, np.float32), np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 1 rows of 5 codes of 4 bits"):
        dequantize(np.zeros((1, 2), np.uint8), values, one, size=5, out=np.empty((1, 5), np.float32))
    for scales, zeros in ((np.ones((3, 3), np.float32), None), (one, np.ones((2, 2), np.float32))):
        with pytest.raises(ValueError, match="for 3 rows of 2 groups"):
            dequantize(np.zeros((3, 4), np.uint8), values, scales, zeros, size=4, out=np.empty((3, 8), np.float32))
