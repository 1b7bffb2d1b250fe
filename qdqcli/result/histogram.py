"""Histograms of a tensor's elements and of their errors, with bins of equal width.

Counts are integers and bin edges depend only on the tensor: identical for every number of threads and blocks.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from qdqcli.plain import Parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Element counts per bin."""

    low: float
    """Lower edge of the first bin."""
    high: float
    """Upper edge of the last bin."""
    counts: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Histograms:
    """Histograms of one tensor; elements that are not finite before or after quantization are left out."""

    values: Histogram
    """Histogram of x, from its minimum to its maximum."""
    errors: Histogram
    """Histogram of e = y - x, symmetric, up to the largest absolute error."""


def compact(counts: Sequence[int]) -> Sequence[int]:
    """Store the counts in the narrowest integer type that fits the largest; a list takes 8 bytes or more each."""
    highest = max(counts, default=0)
    return array(next(kind for kind in "BHIQ" if highest < 1 << 8 * array(kind).itemsize), counts)


def histograms_to_json(histograms: Histograms) -> dict[str, object]:
    """Return the key `histograms` of a report's tensor."""
    return {
        name: {"low": part.low, "high": part.high, "counts": list(part.counts)}
        for name, part in (("values", histograms.values), ("errors", histograms.errors))
    }


def histograms_from_json(data: Parsed) -> Histograms:
    """Parse the output of `histograms_to_json`; raises `KeyError`, `TypeError` or `ValueError` for other data."""
    return Histograms(values=_histogram(data["values"]), errors=_histogram(data["errors"]))


def _histogram(data: Parsed) -> Histogram:
    return Histogram(low=float(data["low"]), high=float(data["high"]), counts=compact(data["counts"]))
