"""ErrorSums: quantization error as counts, extremes and sums that merge in any order to the same bits.

The kernels add in a fixed order within a chunk of `CHUNK_ELEMENTS` elements (see `docs/exactness.md`). Across chunks
nothing is rounded: a sum is stored as an exact expansion, a few floats whose mathematical sum is the sum. So threads,
buffers, shards and machines cannot change a digit.

Source: J. R. Shewchuk, Adaptive precision floating-point arithmetic, 1997 (expansions), by way of `math.fsum`.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import chain
from math import copysign, fsum, inf, isfinite
from sys import float_info
from typing import NamedTuple, Self

Expansion = tuple[float, ...]
"""Floats of decreasing magnitude that represent their exact sum; one infinity or NaN for a non-finite sum."""

CHUNK_ELEMENTS = 65536
"""Chunk size: elements, counted from the tensor's first, that are summed in floating point before any merge."""


class ErrorSums(NamedTuple):
    """Sums over the elements of a tensor, a channel, a group or a checkpoint; e = y - x.

    A tuple: a report of 100,000 tensors has as many, and a frozen dataclass takes three times as long to make.
    """

    num_elements: int = 0
    num_nonfinite: int = 0
    """Elements with x NaN or infinite."""
    num_nonfinite_output: int = 0
    """Elements with x finite and y not. Neither kind enters any field below."""
    num_clipped: int = 0
    """Elements with x outside the representable range."""
    num_zeroed: int = 0
    """Elements with x != 0 and y = 0."""
    num_degenerate: int = 0
    """Slices whose scale is 0, infinite or the dtype's maximum, or that turned finite input into infinities or NaN."""
    input_min: float = inf
    input_max: float = -inf
    max_abs_error: float = 0.0
    error: Expansion = ()
    abs_error: Expansion = ()
    sq_error: Expansion = ()
    sq_input: Expansion = ()
    sq_output: Expansion = ()

    @property
    def num_measured(self) -> int:
        """Elements that entered the sums: finite before and after."""
        return self.num_elements - self.num_nonfinite - self.num_nonfinite_output

    def merge(self, other: Self) -> Self:
        """Return the sums over the elements of both; bit-identical in any order and grouping."""
        return self.total((self, other))

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Merge several sums."""
        columns = zip(cls(), *parts, strict=True)
        return cls._make(fold(column) for fold, column in zip(_FOLDS, columns, strict=True))


def expansion(values: Sequence[float]) -> Expansion:
    """Return the exact sum of `values` as an expansion, which depends on that sum only, not on the values' order."""
    if len(values) == 1:
        return (values[0],) if values[0] else ()
    if not all(map(isfinite, values)):
        return (sum(value for value in values if not isfinite(value)),)
    parts: list[float] = []
    left = list(values)
    while rest := _rounded_sum(left):
        # A sum beyond float64 is split into the largest float and the rest, so that merging stays exact.
        parts.append(rest if isfinite(rest) else copysign(float_info.max, rest))
        left.append(-parts[-1])
    return tuple(parts)


def value_of(parts: Expansion) -> float:
    """Return the sum, rounded once."""
    return _rounded_sum(parts) if len(parts) > 1 else sum(parts, 0.0)


def _rounded_sum(values: Sequence[float]) -> float:
    try:
        return fsum(values)
    except OverflowError:  # a partial sum overflowed float64; the total may not
        exact = sum(map(Fraction, values), Fraction())
        try:
            return float(exact)
        except OverflowError:
            return inf if exact > 0 else -inf


def _total_expansion(parts: Iterable[Expansion]) -> Expansion:
    return expansion(list(chain.from_iterable(parts)))


def _least(values: Iterable[float]) -> float:
    return min(values) + 0.0  # -0 and +0 are equal: their order must not show


def _greatest(values: Iterable[float]) -> float:
    return max(values) + 0.0


_FOLD: dict[str, Callable[..., object]] = {
    "num_elements": sum,
    "num_nonfinite": sum,
    "num_nonfinite_output": sum,
    "num_clipped": sum,
    "num_zeroed": sum,
    "num_degenerate": sum,
    "input_min": _least,
    "input_max": _greatest,
    "max_abs_error": max,
    "error": _total_expansion,
    "abs_error": _total_expansion,
    "sq_error": _total_expansion,
    "sq_input": _total_expansion,
    "sq_output": _total_expansion,
}
_FOLDS = [_FOLD[name] for name in ErrorSums._fields]
