"""Ranking of a report's rows: the worst tensor first."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Protocol

from qdqcli.errors import UsageError
from qdqcli.result.group import Group, groups_by
from qdqcli.result.result import ROW_STATS, RunResult, TensorResult
from qdqcli.stats.metrics import METRICS, Better, MetricValue

DEFAULT_SORT = "sqnr_db"
BY_NAME, BY_SHARE, BY_SIZE = "name", "share", "num_elements"
_ALIASES = {"size": BY_SIZE}
SORTS = (*ROW_STATS, BY_NAME, *_ALIASES)
"""Sort keys of rows."""


class Rankable(Protocol):
    """A row that can be ranked: a tensor, or a group of them."""

    @property
    def stats(self) -> Mapping[str, MetricValue]: ...

    @property
    def num_elements(self) -> int: ...

    @property
    def is_exact(self) -> bool: ...


def ranked(run: RunResult, sort: str = DEFAULT_SORT, top: int | None = None) -> list[TensorResult]:
    """Return the quantized rows, the worst by `sort` first, at most `top` of them (None or 0: all).

    Worst is the smallest or the largest value, as the metric's `better` says, or the largest magnitude where neither
    is better. Before all numbers come rows that have none because their data could not be measured; after all numbers,
    lossless rows (without a number for `sqnr_db`) and empty ones. Ties go by name, then by file.

    Raises:
        UsageError: `sort` is neither a metric nor `name`; offers the nearest.
    """
    sort = check_sort(sort)
    rows = sorted(run.quantized, key=lambda row: _order(row, sort))
    return rows[:top] if top else rows


def ranked_groups(run: RunResult, by: str, sort: str) -> list[Group]:
    """Return the groups, the worst by `sort` first; `name` keeps the order of the checkpoint."""
    sort = check_sort(sort)
    groups = groups_by(run, by)
    if sort != BY_NAME:
        groups.sort(key=lambda group: (*_badness(group, sort), group.name))
    return groups


def worst(run: RunResult, sort: str) -> TensorResult:
    """Return the row that ranks first; there must be one."""
    return min(run.quantized, key=lambda row: _order(row, sort))


def check_sort(sort: str) -> str:
    """Return the metric, `share` or `name` that a sort key stands for.

    Raises:
        UsageError: rows cannot be sorted by `sort`; offers the nearest.
    """
    if sort not in SORTS:
        nearest = get_close_matches(sort, SORTS, cutoff=0.5) or SORTS
        raise UsageError(f"cannot sort by {sort!r}; try {', '.join(nearest)}")
    return _ALIASES.get(sort, sort)


def _order(row: TensorResult, sort: str) -> tuple[int, float, str, str]:
    return *_badness(row, sort), row.source.name, row.source.file


def _badness(row: Rankable, sort: str) -> tuple[int, float]:
    if sort == BY_NAME:
        return 1, 0.0
    value = row.stats[sort]
    if value is None:
        return (2, 0.0) if row.is_exact or not row.num_elements else (0, 0.0)
    match METRICS[sort].better if sort in METRICS else Better.NEITHER:
        case Better.LOWER:
            return 1, -value
        case Better.HIGHER:
            return 1, value
        case Better.NEITHER:
            return 1, -abs(value)
