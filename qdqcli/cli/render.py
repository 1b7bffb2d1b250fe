"""`qdq render`: a stored JSON report in another format, without measuring again."""

from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.deliver import deliver
from qdqcli.cli.files import Files
from qdqcli.cli.groups import ReportRequest, grouped
from qdqcli.cli.help import Command
from qdqcli.cli.session import Session, pass_session
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.report.escape import json_text
from qdqcli.result.read import read_report
from qdqcli.result.schema import report_schema


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq render report.json
  qdq render report.json --sort max_abs_error --top 20 --format markdown
  qdq render report.json --format none --report report.html --report report.xml
  qdq render --schema > report.schema.json""",
)
@click.argument("report_in", metavar="[REPORT.json]", type=click.Path(path_type=Path, readable=False), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a report instead.")
@opt.presentation_options
@opt.verbosity_options
@pass_session
@grouped(report=ReportRequest)
def render(session: Session, /, report_in: Path | None, schema: bool, report: ReportRequest) -> None:
    """Show a JSON report as a table, or write it in other formats.

    REPORT.json was made with --report FILE.json or --format json. Its verdict is shown, and does not decide the exit
    code: qdq check --report-in does.
    """
    if schema:
        write(json_text(report_schema(), indent=2) + "\n")
        return
    if report_in is None:
        raise UsageError("give REPORT.json, a report that --report FILE.json made")
    Files.of(session, report, {"report_in": report_in}).check()
    deliver(read_report(report_in), report, session)
