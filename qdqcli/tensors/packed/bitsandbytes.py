"""bitsandbytes with 4 bits: NF4 and FP4, codes of a 16-value code book over the flattened weight.

Source: bitsandbytes 0.50, `functional.QuantState` and `dequantize_4bit`. The high nibble of a byte comes first; a block
of 64 codes has a largest magnitude, which may itself be a code of 8 bits.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from qdqcli.escape import MalformedError
from qdqcli.plain import Parsed
from qdqcli.tensors.packed.bits import dequantize, swap_nibbles
from qdqcli.tensors.packed.decoder import Decoder, Floats, Parts, check_shape, damaged
from qdqcli.tensors.packed.format import (
    BOOK_OF_SCALES,
    CODE_BOOK,
    CODES,
    FORMAT,
    SCALE,
    SCALE_OF_SCALES,
    PackedWeight,
)
from qdqcli.tensors.packed.storage import CodeGrid, Values
from qdqcli.tensors.strict_json import parse_object

_NESTED_CODES = 256
_MAX_BLOCK = 1 << 31
"""Largest number of codes, or of scales, that share a scale."""


@dataclass(frozen=True, kw_only=True)
class _FourBits:
    """Blocks over the flattened weight."""

    shape: tuple[int, ...]
    grid: CodeGrid
    size: int
    """Codes of a block: even."""
    nested_size: int = 0
    """Blocks that share a scale of scales; 0 where scales are numbers."""
    offset: float = 0.0
    """What is added to each decoded scale."""

    def rows(self, parts: Parts, start: int, stop: int, out: Floats) -> None:
        width, count = self.shape[-1], prod(self.shape)
        first, last = start * width // self.size, -(-stop * width // self.size)
        begin, end = first * self.size, min(last * self.size, count)
        book = parts.check_finite(parts.floats(CODE_BOOK), CODE_BOOK)
        stored = parts.rows(CODES, begin // 2, -(-end // 2), 1).reshape(1, -1)
        scales = self._scales(parts, first, last).reshape(1, -1)
        found = np.empty((1, end - begin), np.float32)
        dequantize(swap_nibbles(stored), book, scales, size=self.size, out=found)
        out[:] = found[0, start * width - begin : stop * width - begin].reshape(-1, width)

    def _scales(self, parts: Parts, first: int, last: int) -> Floats:
        stored = parts.rows(SCALE, first, last, 1)[:, 0]
        if self.nested_size:
            book = parts.check_finite(parts.floats(BOOK_OF_SCALES), BOOK_OF_SCALES)
            outer = parts.check_finite(parts.floats(SCALE_OF_SCALES), SCALE_OF_SCALES)
            stored = book[stored] * outer[np.arange(first, last) // self.nested_size] + np.float32(self.offset)
        return parts.check_finite(stored)


def four_bits(weight: PackedWeight, parts: Parts) -> Decoder:
    """Return the decoder of NF4 and FP4, with scales as numbers or as codes.

    Raises:
        MalformedError: the parts contradict each other; names the tensor.
    """
    if FORMAT not in parts:
        raise damaged(weight, CODES, "no quant_state beside it, which says the shape")
    state = _state(weight, parts)
    shape, size = _shape(weight, state), _number(weight, state, "blocksize")
    count = prod(shape)
    if size % 2 or weight.parts[CODES].num_elements != -(-count // 2):
        found = weight.parts[CODES].num_elements
        raise damaged(weight, CODES, f"{found} bytes do not hold {count} codes in blocks of {size}")
    blocks = -(-count // size)
    check_shape(weight, SCALE, (blocks,))
    check_shape(weight, CODE_BOOK, (16,))
    grid = CodeGrid(4, (1, size), Values.OTHERS)
    if weight.parts[SCALE].dtype.name != "U8":
        return _FourBits(shape=shape, grid=grid, size=size)
    if not {SCALE_OF_SCALES, BOOK_OF_SCALES} <= weight.parts.keys():
        raise damaged(weight, SCALE, "its codes have no scale of scales or no code book")
    nested = _number(weight, state, "nested_blocksize")
    check_shape(weight, SCALE_OF_SCALES, (-(-blocks // nested),))
    check_shape(weight, BOOK_OF_SCALES, (_NESTED_CODES,))
    offset = state.get("nested_offset")
    if not isinstance(offset, int | float) or not abs(offset) <= float(np.finfo(np.float32).max):
        raise damaged(weight, FORMAT, f"nested_offset is {offset!r}")
    return _FourBits(shape=shape, grid=grid, size=size, nested_size=nested, offset=offset)


def _state(weight: PackedWeight, parts: Parts) -> Parsed:
    try:
        return parse_object(parts.whole(FORMAT).tobytes())
    except MalformedError as error:
        raise damaged(weight, FORMAT, str(error)) from error


def _shape(weight: PackedWeight, state: Parsed) -> tuple[int, ...]:
    match state.get("shape"):
        case [*sizes] if sizes and all(isinstance(size, int) and size > 0 for size in sizes):
            return tuple(sizes)
    raise damaged(weight, FORMAT, f"shape is {state.get('shape')!r}")


def _number(weight: PackedWeight, state: Parsed, key: str) -> int:
    value = state.get(key)
    if not isinstance(value, int) or not 1 <= value <= _MAX_BLOCK:
        raise damaged(weight, FORMAT, f"{key} is {value!r}")
    return value
