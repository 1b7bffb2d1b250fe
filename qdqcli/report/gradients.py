"""Share of each gradient that the range passes, as a text table."""

from collections.abc import Sequence

from qdqcli.report.escape import shorten, terminal
from qdqcli.report.number import counted, percent
from qdqcli.report.table import MAX_NAME
from qdqcli.result.gradient import GradientSummary


def render(rows: Sequence[GradientSummary]) -> str:
    """Return a line per tensor, in file order, and a total."""
    names = [shorten(terminal(row.name), MAX_NAME) for row in rows]
    width = max(map(len, ("tensor", *names)))
    lines = [f"{'tensor':<{width}}  {'elements':>15}  outside the range"]
    for name, row in zip(names, rows, strict=True):
        share = percent(row.num_outside / row.num_elements) if row.num_elements else "0"
        lines.append(f"{name:<{width}}  {row.num_elements:>15,}  {share:>17}")
    total, outside = sum(row.num_elements for row in rows), sum(row.num_outside for row in rows)
    share = percent(outside / total) if total else "0"
    lines.append(f"\n{counted(len(rows), 'tensor')}, {counted(total, 'element')}, {share} outside: their gradient is 0")
    return "\n".join(lines) + "\n"
