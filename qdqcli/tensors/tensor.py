"""Tensor metadata from a header: name, dtype, shape and location of the bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """An element type, by its safetensors name (`BF16`), or NumPy's spelling (`<U5`) if it has none."""

    name: str
    bits: int
    """Bits per element; 4 and 6 occur."""
    is_floating: bool = False
    """True for the op's input dtypes: BF16, F16, F32 and F64. Every other dtype is copied as bytes."""
    is_block: bool = False
    """True for GGUF's blocks of codes with their scales."""

    @property
    def is_packed(self) -> bool:
        """True for dtypes of codes or scales of quantized weights: FP8, FP6, FP4 and GGUF's blocks."""
        return self.is_block or (self.name.startswith("F") and self.bits <= 8)

    @property
    def is_integer(self) -> bool:
        """True for integers and booleans."""
        return self.name == "BOOL" or (self.name[:1] in "IU" and self.name[1:].isdigit())

    @property
    def is_opaque(self) -> bool:
        """True for non-numeric elements: text, dates, Python objects, bytes of another file (NumPy only)."""
        return self.name == "|V1" or (self.name[:1] in "<>|" and self.name[1:2] in "OSUMm")


_FLOATING = ("F16", "BF16", "F32", "F64")
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
DTYPES = {name: DType(name=name, bits=bits, is_floating=name in _FLOATING) for name, bits in _BITS.items()}
"""The dtypes of the safetensors format, by name. Source: safetensors 0.8, `Dtype`."""


class TensorInfo(NamedTuple):
    """One tensor of a shard, as its header describes it.

    A tuple, because a header may list half a million tensors: it takes a quarter of a frozen dataclass's time.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: str
    """File name relative to the checkpoint, with forward slashes."""
    start: int
    """Byte offset of the data in the file (in the unpacked member, for `.npz`)."""
    nbytes: int
    big_endian: bool = False
    """True if elements are stored big-endian (`.npy` only)."""
    fortran_order: bool = False
    """True if the first index varies fastest (`.npy` only): the bytes are those of the transposed array."""

    @property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape whose C order is the byte order: reversed for Fortran order."""
        return self.shape[::-1] if self.fortran_order else self.shape


def plain_shape(shape: Sequence[int]) -> str:
    """Return `1536x384`, or `scalar`."""
    return "x".join(map(str, shape)) or "scalar"


def span_error(tensor: TensorInfo, start: int, length: int) -> ValueError:
    """Return the error for `length` bytes from `start` on that do not lie within the tensor."""
    return ValueError(f"bytes {start} to {start + length} of a tensor that has {tensor.nbytes}")
