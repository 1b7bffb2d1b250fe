"""Data of an opened tensor's pictures: histograms with the grid, and the error by channel."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, isfinite

from qdqcli.report.html.markup import script_text
from qdqcli.result.result import TensorResult
from qdqcli.stats.metrics import MetricValue

MAX_BARS = 128


def pictures(row: TensorResult) -> Iterator[str]:
    """Yield the JSON of one tensor's pictures; nothing where none were measured."""
    data: dict[str, object] = {}
    if row.histograms is not None:
        for name, part in (("values", row.histograms.values), ("errors", row.histograms.errors)):
            data[name] = [part.low, part.high, list(part.counts)]
        data |= grid_of(row)
    if row.channels is not None and "rmse" in row.channels:
        data["channels"] = error_by_channel(row.channels)
    if data:
        yield script_text(data)


def grid_of(row: TensorResult) -> dict[str, object]:
    """Return range, step and lowest level of the widest of a tensor's grids, to be drawn; {} without a finite range.

    As in the op, the side that needs the larger step sets it, and zero is a level.
    """
    spec, low, high = row.spec, row.input_min, row.input_max
    if spec is None or low is None or high is None or not (isfinite(low) and isfinite(high)):
        return {}
    lowest, highest = spec.quantized_min, spec.quantized_max
    steps = [end / code for end, code in ((low, lowest), (high, highest)) if code and end / code > 0]
    found: dict[str, object] = {"range": [low, high], "slices": row.num_slices}
    if steps and isfinite(max(steps)):
        found |= {"step": max(steps), "codes": [lowest, highest]}
    return found


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
