"""Goal: the bound that a bit allocation keeps."""

from dataclasses import dataclass
from fractions import Fraction

from qdqcli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The bound that a plan keeps; exactly one of the first four is given."""

    avg_bits: Fraction | None = None
    """Bits per weight, scales included."""
    target_size: int | None = None
    """Bytes of the packed checkpoint, with headers and what stays in float."""
    max_loss: float | None = None
    min_sqnr_db: float | None = None
    """SQNR of every tensor."""
    counts_all: bool = False
    """True where `avg_bits` is the average over all weights of the checkpoint, not over the planned ones."""

    def __post_init__(self) -> None:
        given = [self.avg_bits, self.target_size, self.max_loss, self.min_sqnr_db]
        if sum(goal is not None for goal in given) != 1:
            raise UsageError("give one of --avg-bits, --target-size, --max-loss and --min-sqnr")
