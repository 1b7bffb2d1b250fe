"""`qdq render`: a stored JSON report in another format, without measuring again."""

import re
from dataclasses import replace
from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.option_sources import is_given
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.report.escape import json_text
from qdqcli.report.model_card import hub_id
from qdqcli.result.read import read_report
from qdqcli.result.schema import report_schema

PURPOSES = {"model-card": "card"}
"""Use of a report -> its format."""
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def _checked_id(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Check that the hub would take a model's id, whose push fails otherwise."""
    if value and not _ID.fullmatch(value):
        raise UsageError(f"--base-model '{escape_name(value)}': expected the model's id on the hub, ORG/NAME")
    return value


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq render report.json
  qdq render report.json --sort max_abs_error --top 20 --format markdown
  qdq render report.json --format none --report report.html --report report.xml
  qdq render report.json --for model-card --base-model ORG/NAME > README.md
  qdq render --schema > report.schema.json""",
)
@click.argument("report_in", metavar="[REPORT.json]", type=click.Path(path_type=Path, readable=False), required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a report instead.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(list(PURPOSES)),
    help="Choose what standard output gets by its use; model-card: Markdown with front matter for the hub.",
)
@click.option(
    "--base-model",
    metavar="ORG/NAME",
    callback=_checked_id,
    help="Name the original model in a model card, as the hub has it.",
)
@opt.presentation_options
@opt.by_option
@opt.verbosity_options
@pass_call()
def render(call: Call, /, report_in: Path | None, schema: bool, purpose: str | None) -> None:
    """Show a JSON report as a table, or write it in other formats.

    REPORT.json was made with --report FILE.json or --format json. Its verdict is shown, and does not decide the exit
    code: qdq check --report-in does.
    """
    if schema:
        write(json_text(report_schema(), indent=2) + "\n")
        return
    if report_in is None:
        raise UsageError("give REPORT.json, a report that --report FILE.json made")
    report = call.report
    if purpose is not None:
        if is_given("format_name") and report.format_name != PURPOSES[purpose]:
            raise UsageError(f"give --for {purpose} or --format {report.format_name}: both are for standard output")
        report = replace(report, format_name=PURPOSES[purpose])
    makes_card = "card" in report.formats
    if report.base_model is not None and not makes_card:
        raise UsageError("--base-model is for a model card; add --for model-card")
    call = replace(call, report=report)
    Files.of(call, report_in=report_in)  # no report replaces the one that is read
    run = read_report(report_in)
    deliver(call, run)
    if makes_card and report.base_model is None and hub_id(run) is None:
        call.session.note("base_model is the name of the input; --base-model ORG/NAME gives the model's id on the hub")
