"""AGGREGATES: one number for a metric over many tensors, so that a budget can limit it.

A tensor that lost nothing has an SQNR without a number and counts as infinitely good, except in the mean, which leaves
it out; one that lost all of it (zeros that became something) counts as infinitely bad, also in the mean. Tensors that
could not be measured, or are empty, are left out of all.
"""

from collections.abc import Callable, Sequence
from math import ceil, fsum, inf, isfinite

from qdqcli.result.result import TensorResult
from qdqcli.stats.metrics import METRICS, Better

Weighted = tuple[float, int]
"""A value and the tensor's elements."""


def _worst(values: Sequence[Weighted]) -> float:
    return values[0][0]


def _median(values: Sequence[Weighted]) -> float:
    """The lower of two middle ones is the worse: it is taken."""
    return values[(len(values) - 1) // 2][0]


def _p05(values: Sequence[Weighted]) -> float:
    return values[ceil(0.05 * len(values)) - 1][0]


def _weighted_mean(values: Sequence[Weighted]) -> float:
    worst = _worst(values)
    if not isfinite(worst):  # one lost all, or none lost anything
        return worst
    known = [(value, elements) for value, elements in values if isfinite(value)]
    return fsum(value * elements for value, elements in known) / sum(elements for _, elements in known)


AGGREGATES: dict[str, Callable[[Sequence[Weighted]], float]] = {
    "worst": _worst,
    "median": _median,
    "p05": _p05,
    "weighted_mean": _weighted_mean,
}
"""Name -> function of (value, elements), the worst first. p05: one tensor in twenty is as bad or worse."""


def aggregate(name: str, metric: str, rows: Sequence[TensorResult]) -> float | None:
    """The aggregate of a metric; None where no tensor has a value. Infinitely good where nothing was lost."""
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
    """What no value of the metric is better than."""
    better = METRICS[metric].better if metric in METRICS else Better.LOWER
    return inf if better is Better.HIGHER else -inf
