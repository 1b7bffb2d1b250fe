"""METRICS: report metrics computed from ErrorSums, each with unit, formula and direction.

x is the input and y the output, e = y - x; sums run over the elements where both are finite, in the order and to the
precision of `docs/exactness.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, log10, sqrt
from typing import TYPE_CHECKING

from qdqcli.stats.sums import ErrorSums, Expansion, value_of

MetricValue = float | int | None
"""Value of a metric; None if it is not finite: nothing was measured, or nothing was lost (`sqnr_db`)."""


class Better(StrEnum):
    """Direction in which a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True)
class Metric:
    """One column of a report."""

    name: str
    title: str
    """Short title for a table header."""
    unit: str
    """Unit: `dB`, `elements`, `tensor's unit`, `fraction`, ..."""
    better: Better
    formula: str
    evaluate: Callable[[ErrorSums], float | int]
    """Formula; may divide by zero or return a non-finite number: `value` returns None for both."""

    def value(self, sums: ErrorSums) -> MetricValue:
        try:
            number = self.evaluate(sums)
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        return number if isfinite(number) else None


def is_exact(sums: ErrorSums) -> bool:
    """Tell whether elements were measured and none of them changed."""
    return sums.num_measured > 0 and sums.max_abs_error == 0.0


def is_unchanged(sums: ErrorSums) -> bool:
    """Tell whether no element changed: exact, and no finite element became non-finite."""
    return is_exact(sums) and not sums.num_nonfinite_output


def _mean(parts: Expansion, sums: ErrorSums) -> float:
    return value_of(parts) / sums.num_measured


def _relative_l2(sums: ErrorSums) -> float:
    return 0.0 if is_exact(sums) else sqrt(value_of(sums.sq_error) / value_of(sums.sq_input))


def _sqnr_db(sums: ErrorSums) -> float:
    signal, noise = value_of(sums.sq_input), value_of(sums.sq_error)
    return 10.0 * (log10(signal) - log10(noise)) if signal else -inf / noise


def _cosine_similarity(sums: ErrorSums) -> float:
    xx, yy, ee = value_of(sums.sq_input), value_of(sums.sq_output), value_of(sums.sq_error)
    if sums.num_measured == 0:
        raise ZeroDivisionError
    if xx == 0.0 or yy == 0.0:
        return 1.0 if xx == yy else 0.0
    xy = 0.5 * xx + 0.5 * yy - 0.5 * ee
    return min(max(xy / xx * sqrt(xx / yy), -1.0), 1.0)  # argument order: NaN of infinite sums propagates


LOWER, HIGHER, NEITHER = Better
_UNIT, _SQUARED = "tensor's unit", "tensor's unit squared"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("num_elements", "elements", "elements", NEITHER, "number of elements", lambda s: s.num_elements),
        Metric("num_nonfinite", "non-finite", "elements", LOWER,
               "elements whose x is NaN or infinite; left out of all that follows", lambda s: s.num_nonfinite),
        Metric("num_nonfinite_output", "non-finite out", "elements", LOWER,
               "elements whose x is finite and whose y is not; left out of all that follows",
               lambda s: s.num_nonfinite_output),
        Metric("num_degenerate", "degenerate", "slices", LOWER,
               "tensors, channels or groups whose scale is 0, infinite or the dtype's maximum, or that turn finite "
               "input into infinities or NaN", lambda s: s.num_degenerate),
        Metric("input_min", "min", _UNIT, NEITHER, "smallest finite x", lambda s: s.input_min),
        Metric("input_max", "max", _UNIT, NEITHER, "largest finite x", lambda s: s.input_max),
        Metric("max_abs_error", "max |e|", _UNIT, LOWER, "max |e|",
               lambda s: s.max_abs_error if s.num_measured else inf),
        Metric("mean_error", "mean e", _UNIT, NEITHER, "sum e / n (the bias)", lambda s: _mean(s.error, s)),
        Metric("mean_abs_error", "mean |e|", _UNIT, LOWER, "sum |e| / n", lambda s: _mean(s.abs_error, s)),
        Metric("mse", "MSE", _SQUARED, LOWER, "sum e^2 / n", lambda s: _mean(s.sq_error, s)),
        Metric("rmse", "RMSE", _UNIT, LOWER, "sqrt(sum e^2 / n)", lambda s: sqrt(_mean(s.sq_error, s))),
        Metric("relative_l2", "rel. L2", "fraction", LOWER, "sqrt(sum e^2 / sum x^2)", _relative_l2),
        Metric("sqnr_db", "SQNR", "dB", HIGHER,
               "10 log10(sum x^2 / sum e^2); null, with exact = true, where e is 0 everywhere", _sqnr_db),
        Metric("cosine_similarity", "cosine", "", HIGHER,
               "sum xy / sqrt(sum x^2 sum y^2); 1 where both are all zero, 0 where one is", _cosine_similarity),
        Metric("clipped_fraction", "clipped", "fraction", LOWER, "share of elements outside the representable range",
               lambda s: s.num_clipped / s.num_measured),
        Metric("zeroed_fraction", "zeroed", "fraction", LOWER, "share of elements with x != 0 and y = 0",
               lambda s: s.num_zeroed / s.num_measured),
    )
}  # fmt: skip
"""Name -> metric, in the order of reports."""


class _Evaluated(property):
    """A metric as a property, with a type."""

    def __init__(self, name: str, doc: str) -> None:
        super().__init__(METRICS[name].value, doc=doc)

    if TYPE_CHECKING:

        def __get__(self, sums: object, owner: type | None = None, /) -> MetricValue: ...  # type: ignore[override]


class ErrorStats(ErrorSums):
    """Error sums with the metrics as properties; None if a metric is not finite.

    Counts and extremes (`num_elements`, `input_min`, `max_abs_error`, ...) are fields.
    """

    __slots__ = ()

    def metrics(self) -> dict[str, MetricValue]:
        """Every metric by name, in the order of `METRICS`."""
        return {name: metric.value(self) for name, metric in METRICS.items()}

    mean_error = _Evaluated("mean_error", "Mean of e = y - x, the bias.")
    mean_abs_error = _Evaluated("mean_abs_error", "Mean of |e|.")
    mse = _Evaluated("mse", "Mean of e^2.")
    rmse = _Evaluated("rmse", "Root of the mean of e^2.")
    relative_l2 = _Evaluated("relative_l2", "sqrt(sum e^2 / sum x^2).")
    sqnr_db = _Evaluated("sqnr_db", "10 log10(sum x^2 / sum e^2), in dB; None also if no element changed.")
    cosine_similarity = _Evaluated("cosine_similarity", "sum xy / sqrt(sum x^2 sum y^2).")
    clipped_fraction = _Evaluated("clipped_fraction", "Share of elements outside the representable range.")
    zeroed_fraction = _Evaluated("zeroed_fraction", "Share of elements with x != 0 and y = 0.")
