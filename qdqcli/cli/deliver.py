"""Delivery of reports to standard output and to files."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from qdqcli.cli.call import Call, ReportRequest
from qdqcli.cli.files import is_by_input, named, names_of, step_summary
from qdqcli.cli.progress import duration
from qdqcli.cli.streams import write_all
from qdqcli.escape import show_path
from qdqcli.recipe.listing import Listing
from qdqcli.report.formatter import format_for, formatter, formatter_for
from qdqcli.report.number import counted
from qdqcli.report.options import ReportOptions
from qdqcli.result.group import naming, part_of
from qdqcli.result.result import RunResult
from qdqcli.tensors.note import NoteKind
from qdqcli.tensors.output_file import write_file
from qdqcli.tensors.system_error import blame_output

TERMINAL_ROWS = 20
"""Default number of rows on a terminal."""
SUMMARY_ROWS = 100
SUMMARY_BYTES = 1 << 20
"""GitHub's limit per step."""


def deliver(call: Call, run: RunResult) -> None:
    """Write the report files, then standard output; reports the written files.

    Raises:
        OutputError: a report file cannot be written.
    """
    report = call.report
    if report.reports:
        deliver_files(run, report)
    if report.format_name != "none":
        show(run, report)
    if report.reports:
        say_written(call)


def say_written(call: Call, *others: str) -> None:
    """Print the last line: the files written and the time taken; nothing where none was written."""
    session, report = call.session, call.report
    count = counted(len(session.inputs) - len(session.failures), "input")
    written = [
        *others,
        *(
            f"{show_path(path)} for {count}" if session.inputs and is_by_input(path) else show_path(path)
            for path in report.reports
        ),
    ]
    if written:
        *first, last = written
        names = f"{', '.join(first)} and {last}" if first else last
        session.tell(f"wrote {names} in {duration(perf_counter() - session.began)}")


def deliver_files(run: RunResult, report: ReportRequest) -> None:
    """Write the report files.

    Raises:
        OutputError: one cannot be written.
    """
    choice = _choice(report)
    for path in report.reports:
        for own_path, own_run in _by_input(path, run):
            write_report(own_path, formatter_for(path)(own_run, choice))


def _by_input(path: Path, run: RunResult) -> Iterator[tuple[Path, RunResult]]:
    """Yield the report with its path, or one per input where the path contains `NAME`."""
    if not is_by_input(path):
        yield path, run
        return
    failed = {note.file for note in run.notes if note.kind is NoteKind.FAILED}
    inputs = [own for own in run.inputs if own not in failed]
    for own, name in zip(inputs, names_of(list(map(Path, inputs))), strict=True):
        yield named(path, name), part_of(run, own)


def show(run: RunResult, report: ReportRequest, *, is_gate: bool = False) -> None:
    """Write the job summary on GitHub, then standard output, which may be closed early.

    A gate that passes shows only the verdict, unless rows are requested.
    """
    choice = _choice(report)
    is_brief = is_gate and choice == ReportOptions()
    choice = replace(choice, is_brief=is_brief)
    if report.format_name == "github":
        _write_step_summary(run, choice)
    write_all(formatter(report.format_name)(run, for_terminal(choice)))


def _choice(report: ReportRequest) -> ReportOptions:
    return ReportOptions(sort=report.sort, top=report.top, by=report.by, base_model=report.base_model)


def _write_step_summary(run: RunResult, choice: ReportOptions) -> None:
    """Append the report to the job summary, where GitHub Actions names a file for it.

    Raises:
        OutputError: the file cannot be written.
    """
    path = step_summary()
    if path is None:
        return
    text = "".join(formatter("markdown")(run, replace(choice, top=choice.top or SUMMARY_ROWS)))
    if len(text.encode()) > SUMMARY_BYTES:
        text = "## Quantization error\n\nThe report is too long for a job summary; see the job's artifacts.\n"
    with blame_output(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def deliver_listing(call: Call, listing: Listing) -> None:
    """Deliver a listing, known before any work, to the same places and in the same formats as a run.

    Raises:
        OutputError: a report file cannot be written.
    """
    # Imported late: it lays out tables, which a run without a table never needs.
    from qdqcli.report.listing import ListingView
    from qdqcli.report.listing import render as render_listing

    report = call.report
    view = ListingView(
        sort=report.list_sort,
        top=report.top,
        by=report.by,
        selected_only=bool(call.settings.get("include")) and not report.lists_all,
    )
    for path in report.reports:
        for own_path, own in _listings(path, listing):
            write_report(own_path, render_listing(own, format_for(path), ReportOptions(), view))
    if report.format_name != "none":
        choice = for_terminal(ReportOptions(top=view.top))
        write_all(render_listing(listing, report.format_name, choice, replace(view, top=choice.top)))


def _listings(path: Path, listing: Listing) -> Iterator[tuple[Path, Listing]]:
    """Yield the listing with its path, or one per input where the path contains `NAME`."""
    if not is_by_input(path):
        yield path, listing
        return
    input_of = naming("input", listing.inputs)
    for own, name in zip(listing.inputs, names_of([Path(name) for name in listing.inputs]), strict=True):
        tensors = [tensor for tensor in listing.tensors if input_of(tensor.source) == own]
        yield named(path, name), replace(listing, inputs=[own], tensors=tensors)


def deliver_pieces(render: Callable[[str, ReportOptions], Iterable[str]], report: ReportRequest) -> None:
    """Deliver other reports to the same places as a run's: `render` takes a format and the report options.

    Raises:
        OutputError: a report file cannot be written.
    """
    for path in report.reports:
        write_report(path, render(format_for(path), ReportOptions()))
    if report.format_name != "none":
        write_all(render(report.format_name, for_terminal(ReportOptions(top=report.top))))


def write_report(path: Path, pieces: Iterable[str], *, replaces: bool = True) -> None:
    """Write a report atomically, from pieces as they are produced.

    Raises:
        UsageError: the file exists, though it did not when the command began, and `replaces` is false.
        OutputError: the system refuses.
    """
    write_file(path, (piece.encode() for piece in pieces), replaces=replaces)


def is_terminal() -> bool:
    """Tell whether standard output is a terminal."""
    return sys.stdout.isatty()


def for_terminal(choice: ReportOptions) -> ReportOptions:
    """Fit the options to the capabilities of standard output. NO_COLOR and FORCE_COLOR have their usual meaning."""
    on_terminal = is_terminal()
    color = bool(os.environ.get("FORCE_COLOR")) or (on_terminal and os.environ.get("TERM") != "dumb")
    return replace(
        choice,
        top=TERMINAL_ROWS if on_terminal and choice.top is None else choice.top,
        width=shutil.get_terminal_size().columns if on_terminal else None,
        color=color and not os.environ.get("NO_COLOR"),
        ascii_only=not (sys.stdout.encoding or "").lower().startswith("utf"),
    )
