"""What became of one tensor's gradients."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MaskedGradient:
    """How much of a gradient the range let through."""

    name: str
    num_elements: int
    num_outside: int
    """Elements of the tensor outside its range, NaN among them: their gradient is multiplied by 0."""


def total_of(rows: Sequence[MaskedGradient]) -> dict[str, int]:
    """Tensors and their elements, in all."""
    return {
        "num_tensors": len(rows),
        "num_elements": sum(row.num_elements for row in rows),
        "num_outside": sum(row.num_outside for row in rows),
    }
