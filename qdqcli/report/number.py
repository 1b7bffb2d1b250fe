"""Metric values for people: few digits, units, words where there is no number."""

from qdqcli.result.group import Group
from qdqcli.result.result import TensorResult
from qdqcli.stats.metrics import METRICS, MetricValue

NO_NUMBER = "-"
EXACT = "exact"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def metric_text(name: str, value: MetricValue) -> str:
    """Return the value of metric `name` without its unit, for a table's cell; a percent sign stays with its number."""
    if value is None:
        return NO_NUMBER
    match name:
        case "sqnr_db":
            return f"{value:.2f}"
        case "clipped_fraction" | "zeroed_fraction" | "share":
            return percent(value)
        case "cosine_similarity":
            return f"{value:.6f}"
        case "bits_per_weight":
            return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else significant(value)


def metric_title(name: str) -> str:
    """Return a short title of the metric, without a unit."""
    return METRICS[name].title if name in METRICS else name.replace("bits_per_weight", "bits/weight")


def metric_unit(name: str) -> str:
    """Return ` dB` for a metric in decibels, else nothing: other units are the tensor's own, or none."""
    return " dB" if name in METRICS and METRICS[name].unit == "dB" else ""


def row_text(name: str, row: TensorResult | Group) -> str:
    """Return a metric of one row: `exact` for the SQNR of a lossless one, degenerate slices with their total."""
    if name == "sqnr_db" and row.is_unchanged:
        return EXACT
    text = metric_text(name, row.stats[name])
    return f"{text}/{row.num_slices:,}" if name == "num_degenerate" and row.stats[name] else text


def significant(value: float, digits: int = 3) -> str:
    """Return `value` in `digits` significant digits, trailing zeros kept; zero as `0`."""
    return f"{value:#.{digits}g}".removesuffix(".") if value else "0"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage; `0` and `100%` only where exact."""
    if fraction == 0.0:
        return "0"
    if fraction == 1.0:
        return "100%"
    if fraction < 0.0001:
        return "<0.01%"
    if fraction > 0.9999:
        return ">99.99%"
    return f"{fraction:.2%}"


def counted(count: int, noun: str) -> str:
    """Return `1 tensor`, `2,000 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size_text(num_bytes: int) -> str:
    """Return bytes with a decimal unit and three digits: `90.9 MB`."""
    size, unit = float(num_bytes), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{num_bytes} B" if not unit else f"{size:.3g} {_UNITS[unit]}"
