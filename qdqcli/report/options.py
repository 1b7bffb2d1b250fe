"""ReportOptions: presentation of a report."""

from dataclasses import dataclass

from qdqcli.errors import UsageError
from qdqcli.report.ranking import DEFAULT_SORT, check_sort
from qdqcli.result.group import BY


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Presentation of a report. The data formats (JSON, JSONL, CSV) use `ascii_only` only."""

    sort: str = DEFAULT_SORT
    """The metric to rank by, worst first, or `name`."""
    top: int | None = None
    """Rows to show, the worst ones; None or 0 shows all."""
    by: str | None = None
    """One row for each kind of tensor, layer or input (`BY`) instead of each tensor; tables and CSV only."""
    base_model: str | None = None
    """The model's id on the hub, for a model card; None: as the input's path tells."""
    width: int | None = None
    """Terminal cells to fit the table in; None, for files and pipes, is as wide as its content."""
    color: bool = False
    """Allow ANSI colours in the table."""
    ascii_only: bool = False
    """Restrict to ASCII, for an output whose encoding is not Unicode."""
    is_brief: bool = False
    """Show only the verdict where the budget is kept."""

    @property
    def ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sort", check_sort(self.sort))
        if self.by is not None and self.by not in BY:
            raise UsageError(f"tensors cannot be grouped by {self.by!r}; try {', '.join(BY)}")
        if self.top is not None and self.top < 0:
            raise UsageError(f"top is {self.top}; it must be a number of rows, or 0 to show all")
