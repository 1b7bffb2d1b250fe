"""Formatter protocol: turns a RunResult into text; its options and the registry.

To add a report format: a module with a `render` function that keeps the contract, and a line in `FORMATTERS` (and in
`REPORT_SUFFIXES`, where a file's suffix can select it).
"""

from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import PurePath
from typing import Protocol

from qdqcli.errors import UsageError
from qdqcli.report.options import ReportOptions
from qdqcli.result.result import RunResult


class Formatter(Protocol):
    """A report format.

    1. Names, file names and reasons are untrusted: each goes through the format's function in `escape.py`.
    2. The same run and options give the same text: no time, no host, no environment.
    3. The pieces, joined, are the whole report and end with a newline; nothing is computed that the run does not hold.
    """

    def __call__(self, run: RunResult, options: ReportOptions, /) -> Iterator[str]: ...


FORMATTERS = {
    "table": "qdqcli.report.text:render",
    "json": "qdqcli.report.json:render",
    "jsonl": "qdqcli.report.json:render_lines",
    "csv": "qdqcli.report.csv:render",
    "markdown": "qdqcli.report.markdown:render",
    "html": "qdqcli.report.html.page:render",
    "github": "qdqcli.report.github:render",
    "gitlab": "qdqcli.report.gitlab:render",
    "junit": "qdqcli.report.junit:render",
    "sarif": "qdqcli.report.sarif:render",
    "badge": "qdqcli.report.badge:render",
    "card": "qdqcli.report.model_card:render",
}
"""Format -> the `Formatter`, imported on demand."""

BY_FORMATS = ("table", "markdown", "csv", "card")
"""Formats that support `ReportOptions.by`."""

REPORT_SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".md": "markdown",
    ".html": "html",
    ".xml": "junit",
    ".sarif": "sarif",
    ".gitlab.json": "gitlab",
    ".badge.json": "badge",
    ".card.md": "card",
}
"""Suffix of a report file, in lower case -> its format."""


def formatter(name: str) -> Formatter:
    """Load the formatter called `name`.

    Raises:
        UsageError: unknown name; offers the nearest.
    """
    if name not in FORMATTERS:
        nearest = get_close_matches(name, FORMATTERS, n=1) or FORMATTERS
        raise UsageError(f"unknown report format {name!r}; try {', '.join(nearest)}")
    module, attribute = FORMATTERS[name].split(":")
    render: Formatter = getattr(import_module(module), attribute)
    return render


def format_for(path: PurePath) -> str:
    """Return the format of a report file by its suffix.

    Raises:
        UsageError: the suffix belongs to no format.
    """
    both, last = f".{'.'.join(path.name.lower().split('.')[-2:])}", path.suffix.lower()  # badge.json, x.badge.json
    suffix = both if both in REPORT_SUFFIXES else last
    if suffix not in REPORT_SUFFIXES:
        raise UsageError(f"report {str(path)!r}: its suffix must be one of {', '.join(REPORT_SUFFIXES)}")
    return REPORT_SUFFIXES[suffix]


def formatter_for(path: PurePath) -> Formatter:
    """Load the formatter for a report file; raises like `format_for`."""
    return formatter(format_for(path))
