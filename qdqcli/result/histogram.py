"""Histograms: how often the elements of a tensor, and their errors, fall into each of some bins of equal width.

Counts are integers, and a bin's edges depend on the tensor alone: the same for every number of threads and blocks.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Elements by bin."""

    low: float
    """Where the first bin begins."""
    high: float
    """Where the last bin ends."""
    counts: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Histograms:
    """Of one tensor; elements that are not finite, before or after, are left out."""

    values: Histogram
    """Of x, from its smallest to its largest."""
    errors: Histogram
    """Of e = y - x, as far to either side as the largest error."""


def compact(counts: Sequence[int]) -> Sequence[int]:
    """The same counts, each in as few bytes as the largest needs: a list takes 8 and more."""
    highest = max(counts, default=0)
    return array(next(kind for kind in "BHIQ" if highest < 1 << 8 * array(kind).itemsize), counts)


def histograms_to_json(histograms: Histograms) -> dict[str, Any]:
    """The key `histograms` of a report's tensor."""
    return {
        name: {"low": part.low, "high": part.high, "counts": list(part.counts)}
        for name, part in (("values", histograms.values), ("errors", histograms.errors))
    }


def histograms_from_json(data: Mapping[str, Any]) -> Histograms:
    """The inverse; `KeyError`, `TypeError` or `ValueError` where the data is something else."""
    return Histograms(values=_histogram(data["values"]), errors=_histogram(data["errors"]))


def _histogram(data: Mapping[str, Any]) -> Histogram:
    return Histogram(low=float(data["low"]), high=float(data["high"]), counts=compact(data["counts"]))
