"""Codes in bytes and words, against one bit at a time."""

import numpy as np
import pytest

from qdqcli.tensors.packed.bits import dequantize, look_up, swap_nibbles, unpack, unpack_padded

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 31, 32, 33, 100])
def test_dense_codes(bits: int, count: int) -> None:
    codes = RNG.integers(0, 1 << bits, (3, count), dtype=np.uint8)
    single = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little").reshape(3, -1)
    single = np.pad(single, ((0, 0), (0, -single.shape[1] % 32)))
    words = np.packbits(single, axis=1, bitorder="little").view("<u4")
    assert np.array_equal(unpack(words, bits, count), codes)
    assert np.array_equal(unpack(words.view(np.uint8)[:, : -(-count * bits // 8)], bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 10, 11, 64])
def test_padded_codes(bits: int, count: int) -> None:
    per_word = 32 // bits
    codes = RNG.integers(0, 1 << bits, (3, -(-count // per_word), per_word), dtype=np.uint32)
    words = (codes << (np.arange(per_word, dtype=np.uint32) * bits)).sum(-1, dtype=np.uint32)
    assert np.array_equal(unpack_padded(words.view(np.int32), bits, count), codes.reshape(3, -1)[:, :count])


def test_values_of_nibbles_and_bytes() -> None:
    table = RNG.standard_normal(16).astype(np.float32)
    data = RNG.integers(0, 256, (2, 5), dtype=np.uint8)
    low_first = np.stack([data & 15, data >> 4], -1).reshape(2, -1)
    assert np.array_equal(look_up(data, table, 9), table[low_first[:, :9]])
    high_first = np.stack([data >> 4, data & 15], -1).reshape(2, -1)
    assert np.array_equal(look_up(swap_nibbles(data), table, 10), table[high_first])
    wide = RNG.standard_normal(256).astype(np.float32)
    assert np.array_equal(look_up(data, wide, 4), wide[data[:, :4]])


@pytest.mark.parametrize("count", [12, 10])
@pytest.mark.parametrize("has_index", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_scales_and_zero_points_by_group(count: int, has_index: bool, groups: int) -> None:
    codes = RNG.integers(0, 16, (5, count)).astype(np.float32)
    scales, zeros = RNG.standard_normal((2, 5, groups)).astype(np.float32)
    size = -(-count // groups)
    index = RNG.integers(0, groups, count) if has_index else None
    of = index if index is not None else np.arange(count) // size
    expected = (codes - zeros[:, of]) * scales[:, of]
    assert np.array_equal(dequantize(codes.copy(), scales, zeros, size, index), expected)
    assert np.array_equal(dequantize(codes.copy(), scales, None, size, index), codes * scales[:, of])
