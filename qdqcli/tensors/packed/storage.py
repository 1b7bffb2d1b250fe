"""Storage of a packed weight: format, bits and what shares a scale."""

from typing import NamedTuple

Block = tuple[int, int]


class Grid(NamedTuple):
    """Codes of a packed weight: their bits, and the block that shares a scale."""

    bits: int
    block: Block
    """Rows and columns of the last two dimensions that share a scale."""
    is_integer: bool = True
    """True for evenly spaced values; False for floating-point codes and code books."""
    is_symmetric: bool = True
    """True where zero points do not differ from the middle of the codes."""


class Storage(NamedTuple):
    """How a packed weight is stored."""

    format: str
    grid: Grid
    nbytes: int
    """Bytes of codes, scales and all other parts."""
