"""Distance between a value and its limit, on one scale for all metrics, to rank violations."""

from math import log10

from qdqcli.stats.metrics import METRICS

TINY_DB = 1e-9
"""Minimum distance shown for a violation in the last bit of a number, instead of 0."""


def margin_db(metric: str, limit: float, actual: float) -> float | None:
    """Return the distance in dB: the difference for a dB metric, else 20 log10 of the ratio; None without a ratio."""
    if metric in METRICS and METRICS[metric].unit == "dB":
        return max(abs(actual - limit), TINY_DB)
    if not limit or not actual or (limit < 0) != (actual < 0):
        return None
    return max(20.0 * abs(log10(abs(actual)) - log10(abs(limit))), TINY_DB)
