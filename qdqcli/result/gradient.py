"""Per-tensor summary of the gradient mask."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GradientSummary:
    """Number of gradient elements passed and masked for one tensor."""

    name: str
    num_elements: int
    num_outside: int
    """Elements outside the tensor's range, including NaN: their gradient is multiplied by 0."""


def total_of(rows: Sequence[GradientSummary]) -> dict[str, int]:
    """Return the totals over all tensors."""
    return {
        "num_tensors": len(rows),
        "num_elements": sum(row.num_elements for row in rows),
        "num_outside": sum(row.num_outside for row in rows),
    }
