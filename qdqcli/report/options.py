"""ReportOptions: what a reader of a report may choose."""

from dataclasses import dataclass

from qdqcli.errors import UsageError
from qdqcli.report.ranking import DEFAULT_SORT, check_sort
from qdqcli.result.group import BY


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a reader may choose. The data formats (JSON, JSONL, CSV) heed `ascii_only` alone."""

    sort: str = DEFAULT_SORT
    """The metric whose worst tensor comes first, or `name`."""
    top: int | None = None
    """Rows to show, the worst ones; None or 0 shows all."""
    by: str | None = None
    """One row for each kind of tensor, layer or input (`BY`) instead of each tensor; tables and CSV alone."""
    width: int | None = None
    """Terminal cells to fit the table in; None, for files and pipes, is as wide as its content."""
    color: bool = False
    """Whether the table may hold ANSI colours."""
    ascii_only: bool = False
    """For an output whose encoding is not a Unicode one."""
    is_brief: bool = False
    """Whether of a budget that is kept the table shows the verdict alone."""

    @property
    def ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"

    def __post_init__(self) -> None:
        check_sort(self.sort)
        if self.by is not None and self.by not in BY:
            raise UsageError(f"tensors cannot be grouped by {self.by!r}; try {', '.join(BY)}")
        if self.top is not None and self.top < 0:
            raise UsageError(f"top is {self.top}; it must be a number of rows, or 0 to show all")
