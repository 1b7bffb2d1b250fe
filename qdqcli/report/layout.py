"""Layout of a table within a terminal's width: drops as little as possible and reports what it drops."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import commonprefix

from rich.cells import cell_len as rich_cell_len

from qdqcli.report.escape import shorten
from qdqcli.report.table import Column

GAP = "  "
_MIN_NAME = 28
"""Minimum cells of the name column; other columns are dropped first."""

_DROPPED_FIRST = (
    *("zeroed_fraction", "clipped_fraction", "rmse", "dtype"),
    *("num_nonfinite", "num_nonfinite_output", "num_degenerate"),  # also in the warnings
    *("num_elements", "shape", "max_abs_error", "group", "bits", "lowest", "file", "format"),
)


def cell_len(text: str) -> int:
    """Return the number of cells of a text, mostly its number of characters."""
    return len(text) if text.isascii() else rich_cell_len(text)


@dataclass(frozen=True, kw_only=True)
class FittedTable:
    """A table being fitted to a width."""

    columns: Sequence[Column]
    """Columns, the tensors' names first. A name with line feeds continues on the next line."""
    remarks: Sequence[str] = ()
    """Remarks on shared values, stated once, and on dropped columns."""
    widths: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        names, *others = self.columns
        lines = [line for name in names.cells for line in name.split("\n")]
        widths = [max(map(cell_len, {column.title, *column.cells})) for column in others]
        object.__setattr__(self, "widths", [max(map(cell_len, (names.title, *lines))), *widths])

    @property
    def width(self) -> int:
        """Cells of a line."""
        return sum(self.widths) + len(GAP) * (len(self.widths) - 1)

    @property
    def least_width(self) -> int:
        """Cells of a line with the name cut to its minimum."""
        return self.width - max(self.widths[0] - _MIN_NAME, 0)


def fit(
    columns: Sequence[Column], sort: str, width: int | None, ellipsis: str, dropped: Sequence[str] = _DROPPED_FIRST
) -> FittedTable:
    """Make lines of at most `width` cells: state shared values once, then drop columns, then cut names.

    The metric of `sort` stays. Where that is not enough, lines are wider.
    """
    layout = FittedTable(columns=columns)
    if width is None or layout.width <= width:
        return layout
    layout = _without_shared_columns(layout, sort)
    if layout.width > width:
        layout = _without_shared_ends(layout)
    layout = _without_columns(layout, [name for name in dropped if name != sort], width)
    available = layout.widths[0] - (layout.width - width)
    return (
        layout
        if layout.width <= width
        else _with_names(layout, partial(_cut, available=max(available, 8), ellipsis=ellipsis))
    )


def _without_shared_columns(layout: FittedTable, sort: str) -> FittedTable:
    """Turn columns of equal words or zeros in several rows into a remark."""
    shared = [column for column in layout.columns[1:] if column.name != sort and _is_shared(column)]
    if not shared:
        return layout
    said = ", ".join(f"{column.title} {column.cells[0]}" for column in shared)
    columns = [column for column in layout.columns if column not in shared]
    return replace(layout, columns=columns, remarks=[*layout.remarks, f"in every row: {said}"])


def _is_shared(column: Column) -> bool:
    only = set(column.cells)
    return len(column.cells) > 1 and len(only) == 1 and (not column.is_number or only == {"0"})


def _without_shared_ends(layout: FittedTable) -> FittedTable:
    """Turn the leading and trailing dotted parts that all of several names share into a remark."""
    names = layout.columns[0].cells
    reversed_names = [name[::-1] for name in names]
    start = "".join(commonprefix(names).rpartition(".")[:2])  # noqa: RUF071  names, not paths
    end = "".join(commonprefix(reversed_names).rpartition(".")[:2])[::-1]  # noqa: RUF071
    if len(names) < 2 or not (start or end) or min(map(len, names)) <= len(start) + len(end):
        return layout
    said = " and ".join([f"begins with {start}"] * bool(start) + [f"ends with {end}"] * bool(end))
    shorter = _with_names(layout, lambda names: [name[len(start) : len(name) - len(end)] for name in names])
    return replace(shorter, remarks=[*layout.remarks, f"every name {said}"])


def _without_columns(layout: FittedTable, names: Sequence[str], width: int) -> FittedTable:
    """Drop columns in the order of `names` until the others fit."""
    gone = []
    for name in names:
        if layout.least_width > width and (dropped := [column for column in layout.columns if column.name == name]):
            layout = replace(layout, columns=[column for column in layout.columns if column.name != name])
            gone += [column.title for column in dropped]
    return replace(layout, remarks=[*layout.remarks, f"no room for: {', '.join(gone)}"]) if gone else layout


def _with_names(layout: FittedTable, change: Callable[[Sequence[str]], Sequence[str]]) -> FittedTable:
    names = layout.columns[0]
    return replace(layout, columns=[replace(names, cells=change(names.cells)), *layout.columns[1:]])


def _cut(names: Sequence[str], available: int, ellipsis: str) -> Sequence[str]:
    """Cut names to `available` cells where most stay distinct; break the others into lines."""
    heads = (available // 2, available // 3, 0, available - len(ellipsis))
    candidates = [[_cut_name(name, available, ellipsis, head) for name in names] for head in heads]
    best = max(candidates, key=lambda cut: len(set(cut)))  # the first of equals
    full_names: dict[str, set[str]] = {}
    for short, name in zip(best, names, strict=True):
        full_names.setdefault(short, set()).add(name)
    return [
        short if len(full_names[short]) == 1 else _broken(name, available)
        for short, name in zip(best, names, strict=True)
    ]


def _cut_name(name: str, available: int, ellipsis: str, head: int) -> str:
    length = available
    while cell_len(short := shorten(name, length, ellipsis=ellipsis, head=head)) > available and length > 1:
        length -= 1  # characters that are two cells wide
    return short


def _broken(name: str, available: int) -> str:
    return "\n".join(name[start : start + available] for start in range(0, len(name), available))
