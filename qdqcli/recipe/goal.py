"""Goal: the bound that a bit allocation keeps."""

from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from qdqcli.errors import UsageError

_MAX_BITS = 64
_MAX_DIGITS = 40
"""Digits after the point of a number of bits: as an exact fraction 1e-999999999 takes minutes."""


def exact_bits(value: float | str) -> Fraction | None:
    """Return a number of bits, such as 4.125, as an exact fraction; None if it is not one."""
    with suppress(InvalidOperation, ValueError):
        number = Decimal(str(value))
        if 0 <= number <= _MAX_BITS and -int(number.as_tuple().exponent) <= _MAX_DIGITS:
            return Fraction(number)
    return None


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The bound that a plan keeps; exactly one of its four limits is given."""

    avg_bits: Fraction | None = None
    """Bits per weight, scales included."""
    target_size: int | None = None
    """Bytes of the packed checkpoint, with headers and what stays in float."""
    max_loss: float | None = None
    min_sqnr_db: float | None = None
    """SQNR of every tensor, or of all elements together."""
    is_summary: bool = False
    """True where `min_sqnr_db` is that of all quantized elements together."""
    counts_all: bool = False
    """True where `avg_bits` is the average over all weights of the checkpoint, not over the planned ones."""

    def __post_init__(self) -> None:
        given = [self.avg_bits, self.target_size, self.max_loss, self.min_sqnr_db]
        if sum(goal is not None for goal in given) != 1:
            raise UsageError("give one of --avg-bits, --target-size, --max-loss and --min-sqnr")
        if self.is_summary and self.min_sqnr_db is None:
            raise UsageError("--summary is for --min-sqnr; add it")
