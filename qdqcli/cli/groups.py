"""Groups of options as objects: what click parsed, typed once at the door of a command."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from qdqcli.report.formatter import format_for
from qdqcli.report.ranking import DEFAULT_SORT

Function = TypeVar("Function", bound=Callable[..., object])
Group = TypeVar("Group")
Result = TypeVar("Result")


class Decorator(Protocol):
    """A decorator that adds options to a command."""

    def __call__(self, function: Function, /) -> Function: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs are read, and what is refused in them."""

    void_dtype: str | None = None
    """dtype of `.npy` elements of an unnamed kind."""
    follow_links: bool = False
    allow_unmatched: bool = False
    """Only warn of a pattern that matches nothing."""
    allow_packed: bool | None = None
    """Measure beside weights that are already quantized; None for commands that need not be told."""
    from_packed: bool = False
    """Decode weights that are already quantized."""


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Content, presentation and destination of a report."""

    format_name: str = "table"
    """Format of standard output."""
    reports: Sequence[Path] = ()
    sort: str = DEFAULT_SORT
    top: int | None = None
    by: str | None = None
    per_channel: bool = False
    histograms: bool = False
    list_sort: str = "order"
    """Order of a listing."""
    base_model: str | None = None
    """The model's id on the hub, for a model card."""
    lists_all: bool = False
    """List tensors that are not selected, too."""

    @property
    def formats(self) -> list[str]:
        """Formats of standard output and of the report files."""
        return [self.format_name, *map(format_for, self.reports)]

    @property
    def has_histograms(self) -> bool:
        return self.histograms or "html" in self.formats


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Threads, memory and device of this process, or a cluster."""

    threads: int | None = None
    """Number of threads; None: one per core."""
    max_memory: int = 256 << 20
    """Bytes of buffers."""
    device: str = "cpu"
    dask: str | None = None
    """Address of a scheduler."""


def gathered(group: type[Group], values: Mapping[str, object]) -> Group:
    """Return the group of those values that are its fields; a command may lack options that have a default."""
    return group(**{name: values[name] for name in group.__annotations__ if name in values})
