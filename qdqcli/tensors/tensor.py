"""What a checkpoint says of a tensor before its data is read: name, dtype, shape and where the bytes are."""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """An element type, by safetensors' name (`BF16`); NumPy's spelling (`<U5`) where safetensors has none."""

    name: str
    bits: int
    """Bits per element; 4 and 6 occur."""
    is_floating: bool = False
    """Whether the op takes it: BF16, F16, F32 or F64. Every other dtype is copied as bytes."""

    @property
    def is_packed(self) -> bool:
        """Whether its elements are codes or scales of weights that are quantized already: FP8, FP6 and FP4."""
        return self.name.startswith("F") and self.bits <= 8

    @property
    def is_integer(self) -> bool:
        """Whether its elements are integers or truth values."""
        return self.name == "BOOL" or (self.name[:1] in "IU" and self.name[1:].isdigit())

    @property
    def is_opaque(self) -> bool:
        """Whether its elements are no numbers: text, dates, Python objects, bytes of another file (NumPy only)."""
        return self.name == "|V1" or (self.name[:1] in "<>|" and self.name[1:2] in "OSUMm")


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType(name="BOOL", bits=8),
        DType(name="F4", bits=4),
        DType(name="F6_E2M3", bits=6),
        DType(name="F6_E3M2", bits=6),
        DType(name="U8", bits=8),
        DType(name="I8", bits=8),
        DType(name="F8_E5M2", bits=8),
        DType(name="F8_E4M3", bits=8),
        DType(name="F8_E8M0", bits=8),
        DType(name="F8_E4M3FNUZ", bits=8),
        DType(name="F8_E5M2FNUZ", bits=8),
        DType(name="I16", bits=16),
        DType(name="U16", bits=16),
        DType(name="F16", bits=16, is_floating=True),
        DType(name="BF16", bits=16, is_floating=True),
        DType(name="I32", bits=32),
        DType(name="U32", bits=32),
        DType(name="F32", bits=32, is_floating=True),
        DType(name="C64", bits=64),
        DType(name="F64", bits=64, is_floating=True),
        DType(name="I64", bits=64),
        DType(name="U64", bits=64),
    )
}
"""The dtypes of the safetensors format, by name. Source: safetensors 0.8, `Dtype`."""


class TensorInfo(NamedTuple):
    """One tensor of a shard, as its header describes it.

    A tuple, because a header may name half a million: it is made in a quarter of a frozen dataclass's time.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    shard: str
    """The file's name relative to the checkpoint, with forward slashes."""
    start: int
    """Byte offset of the data in the file (in the unpacked member, for `.npz`)."""
    nbytes: int
    big_endian: bool = False
    """The bytes of each element are stored most significant first (`.npy` only)."""
    fortran_order: bool = False
    """The first index varies fastest in the file (`.npy` only): the bytes are those of the transposed array."""

    @property
    def num_elements(self) -> int:
        return prod(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape whose C order is the order of the bytes: reversed for Fortran order."""
        return self.shape[::-1] if self.fortran_order else self.shape


def check_range(tensor: TensorInfo, start: int, length: int) -> None:
    """Raise `ValueError` unless the bytes from `start` on, `length` of them, belong to the tensor."""
    if start < 0 or start + length > tensor.nbytes:
        raise ValueError(f"bytes {start} to {start + length} of a tensor that has {tensor.nbytes}")
