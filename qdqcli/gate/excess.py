"""How far a value is beyond its limit, on one scale for all metrics, so that violations can be ranked."""

from math import log10

from qdqcli.stats.metrics import METRICS

TINY_DB = 1e-9
"""What the last bit of a number is shown as, rather than as nothing."""


def excess_db(metric: str, limit: float, actual: float) -> float | None:
    """In dB: the difference for a metric in dB, else 20 log10 of the ratio; None where there is no ratio."""
    if metric in METRICS and METRICS[metric].unit == "dB":
        return max(abs(actual - limit), TINY_DB)
    if not limit or not actual or (limit < 0) != (actual < 0):
        return None
    return max(20.0 * abs(log10(abs(actual)) - log10(abs(limit))), TINY_DB)
