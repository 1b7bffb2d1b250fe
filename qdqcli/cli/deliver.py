"""Reports to standard output and to files."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from qdqcli.cli.options import Options
from qdqcli.cli.streams import write
from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.placement import check_extra_file
from qdqcli.recipe.listing import Listing
from qdqcli.report.formatter import ReportOptions, format_for, formatter, formatter_for
from qdqcli.result.result import RunResult
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.storage import output_error, write_file

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
SUMMARY_ROWS = 100
SUMMARY_BYTES = 1 << 20
"""What GitHub takes of a step."""


def deliver(run: RunResult, options: Options) -> None:
    """Write the report files, then standard output.

    Raises:
        OutputError: a report file cannot be written.
    """
    deliver_files(run, options)
    show(run, options)


def deliver_files(run: RunResult, options: Options) -> None:
    """Write the report files.

    Raises:
        OutputError: one cannot be written.
    """
    choice = _choice(options)
    for path in options["reports"]:
        write_report(path, formatter_for(path)(run, choice))


def show(run: RunResult, options: Options) -> None:
    """Write the job's page on GitHub, then standard output, which may be closed early."""
    choice = _choice(options)
    if options["format_name"] == "github":
        _write_step_summary(run, choice)
    if options["format_name"] != "none":
        for piece in formatter(options["format_name"])(run, for_terminal(choice)):
            write(piece)


def _choice(options: Options) -> ReportOptions:
    return ReportOptions(sort=options["sort"], top=options["top"])


def _write_step_summary(run: RunResult, choice: ReportOptions) -> None:
    """Add the report to the page of the job, where GitHub Actions names a file for that.

    Raises:
        OutputError: the file cannot be written.
    """
    name = os.environ.get(STEP_SUMMARY)
    if not name:
        return
    text = "".join(formatter("markdown")(run, replace(choice, top=choice.top or SUMMARY_ROWS)))
    if len(text.encode()) > SUMMARY_BYTES:
        text = "## Quantization error\n\nThe report is too long for a job summary; see the job's artifacts.\n"
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise output_error(Path(name), error) from error


def deliver_listing(listing: Listing, options: Options) -> None:
    """What is known before any work, to the same places and in the same formats.

    Raises:
        OutputError: a report file cannot be written.
    """
    # Imported late: it lays out tables, which a run that says nothing never does.
    from qdqcli.report.listing import render as render_listing

    for path in options["reports"]:
        write_report(path, [render_listing(listing, format_for(path), ReportOptions())])
    if options["format_name"] != "none":
        write(render_listing(listing, options["format_name"], for_terminal(ReportOptions())))


def write_report(path: Path, pieces: Iterable[str]) -> None:
    """Write a whole report or none: its pieces, as they are made."""
    write_file(path, (piece.encode() for piece in pieces))


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
    """Find out before the work whether each report's kind is known and its folder can take it.

    Raises:
        UsageError: a suffix of no format, a report that is a folder, a folder that is not there.
        OutputError: a folder without permission to write.
    """
    for path in reports:
        formatter_for(path)
    check_files(reports)


def check_files(paths: Sequence[Path]) -> None:
    """Find out before the work whether the folder of each file that is to be written can take it.

    Raises:
        UsageError: a file that is a folder, a folder that is not there.
        OutputError: a folder without permission to write.
    """
    for path in paths:
        folder = show_path(path.parent)
        if not path.parent.is_dir():
            raise UsageError(f"{show_path(path)}: there is no folder {folder} for the report; make it first")
        if path.is_dir():
            raise UsageError(f"{show_path(path)}: is a folder, a report is a file; choose another name")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise OutputError(f"{show_path(path)}: no permission to write in {folder}; choose another folder")


def check_reports_apart(
    reports: Sequence[Path], checkpoints: Sequence[Checkpoint], outputs: Sequence[Path] = ()
) -> None:
    """Find out before the work whether a report would replace a file of an input, or part of an output.

    Raises:
        UsageError: it would.
    """
    for path in reports:
        check_extra_file(path, checkpoints, outputs)
