"""AGGREGATES: functions that reduce a metric over many tensors to one number, which a budget can limit.

A lossless tensor has an undefined SQNR and counts as infinitely good, except in the mean, which leaves it out; a tensor
that lost everything (zeros that became non-zero) counts as infinitely bad, also in the mean. Tensors that are empty or
could not be measured are always left out.
"""

from collections.abc import Callable, Sequence
from math import ceil, fsum, inf, isfinite

from qdqcli.result.result import TensorResult
from qdqcli.stats.metrics import METRICS, Better

Weighted = tuple[float, int]
"""A value and the tensor's number of elements."""


def _worst(values: Sequence[Weighted]) -> float:
    return values[0][0]


def _median(values: Sequence[Weighted]) -> float:
    """Take the worse of the two middle values."""
    return values[(len(values) - 1) // 2][0]


def _p05(values: Sequence[Weighted]) -> float:
    return values[ceil(0.05 * len(values)) - 1][0]


def _weighted_mean(values: Sequence[Weighted]) -> float:
    worst = _worst(values)
    if not isfinite(worst):  # one tensor lost everything, or none lost anything
        return worst
    known = [(value, elements) for value, elements in values if isfinite(value)]
    return fsum(value * elements for value, elements in known) / sum(elements for _, elements in known)


AGGREGATES: dict[str, Callable[[Sequence[Weighted]], float]] = {
    "worst": _worst,
    "median": _median,
    "p05": _p05,
    "weighted_mean": _weighted_mean,
}
"""Name -> function of (value, elements), worst first. p05: one tensor in twenty is as bad or worse."""


def aggregate(name: str, metric: str, rows: Sequence[TensorResult]) -> float | None:
    """Return the aggregate of a metric; None if no tensor has a value. Infinitely good if nothing was lost."""
    best = best_of(metric)
    values = []
    for row in rows:
        value = row.stats[metric]
        if value is None and row.sums.num_measured:
            value = best if row.is_exact else -best
        if value is not None:
            values.append((value, row.num_elements))
    values.sort(reverse=best < 0)
    return AGGREGATES[name](values) if values else None


def best_of(metric: str) -> float:
    """Return the bound that no value of the metric exceeds in quality: plus or minus infinity."""
    better = METRICS[metric].better if metric in METRICS else Better.LOWER
    return inf if better is Better.HIGHER else -inf
