"""Reports to standard output and to files."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from qdqcli.cli.options import Options
from qdqcli.errors import OutputError, UsageError
from qdqcli.report.formatter import ReportOptions, format_for, formatter, formatter_for
from qdqcli.report.listing import render as render_listing
from qdqcli.run.listing import Listing
from qdqcli.run.result import RunResult
from qdqcli.tensors.message import show_path


def deliver(run: RunResult, options: Options) -> None:
    """Write the report files, then standard output.

    Raises:
        OutputError: a report file cannot be written.
    """
    choice = ReportOptions(sort=options["sort"], top=options["top"])
    for path in options["reports"]:
        write_report(path, "".join(formatter_for(path)(run, choice)))
    if options["format_name"] != "none":
        for piece in formatter(options["format_name"])(run, for_terminal(choice)):
            click.echo(piece, nl=False)


def deliver_listing(listing: Listing, options: Options) -> None:
    """What is known before any work, to the same places and in the same formats.

    Raises:
        OutputError: a report file cannot be written.
    """
    for path in options["reports"]:
        write_report(path, render_listing(listing, format_for(path), ReportOptions()))
    if options["format_name"] != "none":
        choice = for_terminal(ReportOptions())
        click.echo(render_listing(listing, options["format_name"], choice), nl=False)


def write_report(path: Path, text: str) -> None:
    """Write a whole report or none: a temporary beside it takes its name at the end."""
    temporary = path.with_name(f".{os.getpid()}.qdq-report")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: the report cannot be written: {error.strerror}") from error


def for_terminal(choice: ReportOptions) -> ReportOptions:
    """The choice, fitted to what standard output can show. NO_COLOR and FORCE_COLOR have their usual meaning."""
    is_terminal = sys.stdout.isatty()
    color = bool(os.environ.get("FORCE_COLOR")) or (is_terminal and os.environ.get("TERM") != "dumb")
    return replace(
        choice,
        width=shutil.get_terminal_size().columns if is_terminal else None,
        color=color and not os.environ.get("NO_COLOR"),
        ascii_only=not (sys.stdout.encoding or "").lower().startswith("utf"),
    )


def check_report_paths(reports: Sequence[Path]) -> None:
    """Find out before the work whether each report's kind is known and its folder is there.

    Raises:
        UsageError: a suffix of no format, a folder that is not there.
    """
    for path in reports:
        formatter_for(path)
        if not path.parent.is_dir():
            raise UsageError(f"report {show_path(path)}: there is no folder {show_path(path.parent)}; make it first")
