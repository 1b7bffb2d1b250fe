"""Error per channel or group of a tensor, reduced to a number of bars that can be drawn."""

from collections.abc import Mapping, Sequence
from math import ceil

from qdqcli.stats.metrics import MetricValue

MAX_BARS = 128


def error_by_channel(channels: Mapping[str, Sequence[MetricValue]]) -> dict[str, object]:
    """Return RMSE per channel in three digits; beyond MAX_BARS, the worst of every `step` consecutive channels."""
    rmse = channels["rmse"]
    step = max(ceil(len(rmse) / MAX_BARS), 1)
    worst = [
        max((value for value in rmse[start : start + step] if value is not None), default=None)
        for start in range(0, len(rmse), step)
    ]
    return {
        "count": len(rmse),
        "step": step,
        "rmse": [None if value is None else float(f"{value:.3g}") for value in worst],
    }
