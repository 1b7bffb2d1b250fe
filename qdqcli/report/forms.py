"""Forms: the formats of a report that is not on a run: of a sweep, a plan, a diagnosis or a comparison."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Generic, TypeVar

from qdqcli.errors import UsageError
from qdqcli.report.escape import finished, json_text
from qdqcli.report.options import ReportOptions

T = TypeVar("T")

LISTING_FORMATS = ("table", "json", "jsonl", "csv", "markdown")
"""Formats of a list of tensors."""
SWEEP_FORMATS = ("table", "json", "jsonl", "csv", "markdown", "html")
STUDY_FORMATS = ("table", "json", "markdown", "html")
"""Formats of a plan and of a diagnosis."""
LAB_FORMATS = ("table", "json", "markdown")
"""Formats of a comparison of conventions."""


def check_forms(what: str, known: Sequence[str], names: Iterable[str]) -> None:
    """Check that each format is one of those that a kind of report has, or `none`.

    Raises:
        UsageError: one is not; names those that there are.
    """
    for name in names:
        if name not in (*known, "none"):
            raise UsageError(f"{what} has no {name} form; choose one of {', '.join(known)}")


def json_lines(to_json: Callable[[T], object]) -> Callable[[T, ReportOptions], Iterable[str]]:
    """Return the form of a report as one indented JSON value."""
    return lambda found, _options: [json_text(to_json(found), indent=2)]


@dataclass(frozen=True, kw_only=True)
class Forms(Generic[T]):
    """Formats of one kind of report, and how it is made in each."""

    what: str
    """`a sweep`, in messages."""
    lines: Mapping[str, Callable[[T, ReportOptions], Iterable[str]]]
    """Format -> the report's lines, without their ends."""
    page: str | None = None
    """Location of the function that makes an HTML page in pieces, imported on demand."""

    @property
    def names(self) -> list[str]:
        """Formats of the report."""
        return [*self.lines, *([] if self.page is None else ["html"])]

    def check(self, names: Iterable[str]) -> None:
        """Check that the report has these formats; raises like `check_forms`."""
        check_forms(self.what, self.names, names)

    def render(self, found: T, format_name: str, options: ReportOptions) -> Iterator[str]:
        """Yield the report in one of its formats."""
        if format_name == "html" and self.page is not None:
            module, attribute = self.page.split(":")
            yield from getattr(import_module(module), attribute)(found)
            return
        yield from finished(self.lines[format_name](found, options), ascii_only=options.ascii_only)
