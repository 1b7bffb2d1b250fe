"""Definitions of the metrics as Markdown: identical in the README, printed by `qdq info --metrics`."""

from collections.abc import Iterator

from qdqcli.stats.metrics import METRICS, Better

_INTRODUCTION = """\
x is the input and y the output, both as float64, and e = y - x; sums run over the n elements where both are finite. The
measured y is the stored one: the error is that of the file that was written.
"""


def metrics_page() -> str:
    """Return the definitions, a row for each metric."""
    return "\n".join([_INTRODUCTION, "| metric | is | unit | better |", "| --- | --- | --- | --- |", *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    for metric in METRICS.values():
        better = "" if metric.better is Better.NEITHER else str(metric.better)
        formula = metric.formula.replace("|", "\\|")
        yield f"| `{metric.name}` | {formula} | {metric.unit} | {better} |"
    yield "| `bits_per_weight` | storage bits per element, one scale of `--scale-bits` per range included | bits | |"
