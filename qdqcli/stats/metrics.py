"""METRICS: report metrics computed from ErrorSums, each with unit, formula and direction.

x is the input and y the output, e = y - x; sums run over the elements where both are finite, in the order and to the
precision of `docs/exactness.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite, log10, sqrt

from qdqcli.stats.sums import ErrorSums, Expansion, value_of

MetricValue = float | int | None
"""Value of a metric; None if it is not finite: nothing was measured, or nothing was lost (`sqnr_db`)."""


class Better(StrEnum):
    """Direction in which a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


@dataclass(frozen=True, kw_only=True)
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


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="num_elements",
            title="elements",
            unit="elements",
            better=Better.NEITHER,
            formula="number of elements",
            evaluate=lambda s: s.num_elements,
        ),
        Metric(
            name="num_nonfinite",
            title="non-finite",
            unit="elements",
            better=Better.LOWER,
            formula="elements whose x is NaN or infinite; left out of all that follows",
            evaluate=lambda s: s.num_nonfinite,
        ),
        Metric(
            name="num_nonfinite_output",
            title="non-finite out",
            unit="elements",
            better=Better.LOWER,
            formula="elements whose x is finite and whose y is not; left out of all that follows",
            evaluate=lambda s: s.num_nonfinite_output,
        ),
        Metric(
            name="num_degenerate",
            title="degenerate",
            unit="slices",
            better=Better.LOWER,
            formula="tensors, channels or groups whose scale is 0, infinite or the dtype's maximum, "
            "or that turn finite input into infinities or NaN",
            evaluate=lambda s: s.num_degenerate,
        ),
        Metric(
            name="input_min",
            title="min",
            unit="tensor's unit",
            better=Better.NEITHER,
            formula="smallest finite x",
            evaluate=lambda s: s.input_min,
        ),
        Metric(
            name="input_max",
            title="max",
            unit="tensor's unit",
            better=Better.NEITHER,
            formula="largest finite x",
            evaluate=lambda s: s.input_max,
        ),
        Metric(
            name="max_abs_error",
            title="max |e|",
            unit="tensor's unit",
            better=Better.LOWER,
            formula="max |e|",
            evaluate=lambda s: s.max_abs_error if s.num_measured else inf,
        ),
        Metric(
            name="mean_error",
            title="mean e",
            unit="tensor's unit",
            better=Better.NEITHER,
            formula="sum e / n (the bias)",
            evaluate=lambda s: _mean(s.error, s),
        ),
        Metric(
            name="mean_abs_error",
            title="mean |e|",
            unit="tensor's unit",
            better=Better.LOWER,
            formula="sum |e| / n",
            evaluate=lambda s: _mean(s.abs_error, s),
        ),
        Metric(
            name="mse",
            title="MSE",
            unit="tensor's unit squared",
            better=Better.LOWER,
            formula="sum e^2 / n",
            evaluate=lambda s: _mean(s.sq_error, s),
        ),
        Metric(
            name="rmse",
            title="RMSE",
            unit="tensor's unit",
            better=Better.LOWER,
            formula="sqrt(sum e^2 / n)",
            evaluate=lambda s: sqrt(_mean(s.sq_error, s)),
        ),
        Metric(
            name="relative_l2",
            title="rel. L2",
            unit="fraction",
            better=Better.LOWER,
            formula="sqrt(sum e^2 / sum x^2)",
            evaluate=lambda s: 0.0 if is_exact(s) else sqrt(value_of(s.sq_error) / value_of(s.sq_input)),
        ),
        Metric(
            name="sqnr_db",
            title="SQNR",
            unit="dB",
            better=Better.HIGHER,
            formula="10 log10(sum x^2 / sum e^2); null, with exact = true, where e is 0 everywhere",
            evaluate=_sqnr_db,
        ),
        Metric(
            name="cosine_similarity",
            title="cosine",
            unit="",
            better=Better.HIGHER,
            formula="sum xy / sqrt(sum x^2 sum y^2); 1 where both are all zero, 0 where one is",
            evaluate=_cosine_similarity,
        ),
        Metric(
            name="clipped_fraction",
            title="clipped",
            unit="fraction",
            better=Better.LOWER,
            formula="share of elements outside the representable range",
            evaluate=lambda s: s.num_clipped / s.num_measured,
        ),
        Metric(
            name="zeroed_fraction",
            title="zeroed",
            unit="fraction",
            better=Better.LOWER,
            formula="share of elements with x != 0 and y = 0",
            evaluate=lambda s: s.num_zeroed / s.num_measured,
        ),
    )
}


class ErrorStats(ErrorSums):
    """Error sums with the metrics as properties; None if a metric is not finite.

    Counts and extremes (`num_elements`, `input_min`, `max_abs_error`, ...) are fields.
    """

    __slots__ = ()

    def metrics(self) -> dict[str, MetricValue]:
        """Every metric by name, in the order of `METRICS`."""
        return {name: metric.value(self) for name, metric in METRICS.items()}

    @property
    def mean_error(self) -> MetricValue:
        """Mean of e = y - x, the bias."""
        return METRICS["mean_error"].value(self)

    @property
    def mean_abs_error(self) -> MetricValue:
        """Mean of |e|."""
        return METRICS["mean_abs_error"].value(self)

    @property
    def mse(self) -> MetricValue:
        """Mean of e^2."""
        return METRICS["mse"].value(self)

    @property
    def rmse(self) -> MetricValue:
        """Root of the mean of e^2."""
        return METRICS["rmse"].value(self)

    @property
    def relative_l2(self) -> MetricValue:
        """sqrt(sum e^2 / sum x^2)."""
        return METRICS["relative_l2"].value(self)

    @property
    def sqnr_db(self) -> MetricValue:
        """10 log10(sum x^2 / sum e^2), in dB; None also if no element changed."""
        return METRICS["sqnr_db"].value(self)

    @property
    def cosine_similarity(self) -> MetricValue:
        """sum xy / sqrt(sum x^2 sum y^2)."""
        return METRICS["cosine_similarity"].value(self)

    @property
    def clipped_fraction(self) -> MetricValue:
        """Share of elements outside the representable range."""
        return METRICS["clipped_fraction"].value(self)

    @property
    def zeroed_fraction(self) -> MetricValue:
        """Share of elements with x != 0 and y = 0."""
        return METRICS["zeroed_fraction"].value(self)
