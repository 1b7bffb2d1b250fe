"""Storage of a packed weight: format, bits and what shares a scale."""

from enum import StrEnum
from typing import NamedTuple

Block = tuple[int, int]


class Values(StrEnum):
    """Values that codes stand for, before they are multiplied by a scale."""

    INTEGERS = "int"
    E4M3 = "E4M3"
    E5M2 = "E5M2"
    E2M1 = "E2M1"
    OTHERS = "other"
    """A code book, or integers of unknown bits."""


class Scales(StrEnum):
    """Values of scales."""

    FLOATS = "float"
    E8M0 = "E8M0"
    """Powers of two."""
    E4M3 = "E4M3"
    E4M3_AND_FLOAT = "E4M3 and float"
    """Times one number for the tensor."""


class CodeGrid(NamedTuple):
    """Codes of a packed weight: their bits, and the block that shares a scale."""

    bits: int
    block: Block
    """Rows and columns of the last two dimensions that share a scale."""
    values: Values = Values.INTEGERS
    scales: Scales = Scales.FLOATS
    is_symmetric: bool = True
    """True where zero points do not differ from the middle of the codes."""

    @property
    def is_integer(self) -> bool:
        """True for evenly spaced values."""
        return self.values == Values.INTEGERS


class Storage(NamedTuple):
    """How a packed weight is stored."""

    format: str
    grid: CodeGrid
    nbytes: int
    """Bytes of codes, scales and all other parts."""
