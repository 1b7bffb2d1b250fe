"""`qdq check`: measure, or read a stored report, and judge; only the verdict sets exit code 1."""

from dataclasses import replace
from typing import Any

import click

from qdqcli.cli import options as opt
from qdqcli.cli.batch import failure_notes, run_inputs
from qdqcli.cli.files import Files
from qdqcli.cli.gate import Gate, gate_options
from qdqcli.cli.help import Command
from qdqcli.cli.measure import listing_of, measure, open_inputs, plan_inputs
from qdqcli.cli.option_sources import given_parameters
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.cli.session import Session, pass_session
from qdqcli.errors import UsageError
from qdqcli.recipe.plan import check_selection
from qdqcli.result.read import read_report
from qdqcli.result.result import RunResult


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq check
  qdq check MODEL_FOLDER --scheme int8-channel --budget budget.toml
  qdq check MODEL_FOLDER --scheme int4-g128 --write-budget int4.toml --headroom 0.5dB
  qdq check --report-in report.json --budget budget.toml --report verdict.xml""",
)
@project_inputs
@opt.keep_going_option
@gate_options
@opt.measuring_options
@pass_session
def check(session: Session, /, inputs: tuple[str, ...], **options: Any) -> int:
    """Measure like stats and judge by a budget; exit code 1 when it is exceeded.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Without INPUT, or
    without --budget, the nearest qdq.toml, or pyproject.toml with [tool.qdq], is taken.
    """
    if inputs and options["report_in"] is not None:
        raise UsageError("give INPUT, or --report-in REPORT.json to judge what was measured before")
    if session.keeps_going and options["report_in"] is not None:
        raise UsageError("--keep-going has no meaning with --report-in: the report was measured before")
    _check_needed(options)
    inputs = with_project(inputs, options, session, is_gate=True)
    files = Files.of(options)
    files.check()
    gate = Gate.of(options, session)
    if gate.budget is None and not (options["write_baseline"] or options["write_budget"]):
        raise UsageError("nothing to judge by; give --budget FILE, or make one with --write-budget FILE or 'qdq init'")
    gate.add_files(files)
    if options["report_in"] is not None:
        run = gate.judge(read_report(options["report_in"]), session)
    else:
        run = _measured(session, inputs, gate, files, options)
    session.exit_code = gate.conclude(run, options, session)
    return session.conclude()


JUDGING = (
    *("config", "report_in", "budget", "baseline", "today", "exit_zero", "allow_unmatched"),
    *("write_baseline", "write_budget", "headroom", "ratchet", "overwrite", "format_name", "reports", "sort", "top"),
)
"""Options that apply to a stored report."""


def _check_needed(options: opt.Options) -> None:
    """Refuse options without effect.

    Raises:
        UsageError: a measuring option with a stored report, or headroom with no file to write.
    """
    for parameter in given_parameters():
        flag = parameter.opts[0]
        if options["report_in"] is not None and parameter.name not in JUDGING and parameter.expose_value:
            raise UsageError(f"{flag} has no meaning with --report-in: the report was measured before")
        if parameter.name == "headroom" and not (options["write_budget"] or options["ratchet"]):
            raise UsageError("--headroom is for limits that are written; add --write-budget FILE or --ratchet")
        if parameter.name == "overwrite" and not (options["write_budget"] or options["write_baseline"]):
            raise UsageError("--overwrite replaces files that are written; add --write-budget or --write-baseline FILE")


def _measured(session: Session, inputs: tuple[str, ...], gate: Gate, files: Files, options: opt.Options) -> RunResult:
    """Return the run with its verdict; nothing is measured where the headers decide it."""
    request = opt.request_of(options, session)
    checkpoints = open_inputs(inputs, options, session)
    files.check(checkpoints)
    plans = plan_inputs(checkpoints, request, options, session)
    check_selection(plans)
    listing = listing_of("check", plans, request, options)
    foreseen = gate.foresee(listing)
    if foreseen is not None:
        return replace(foreseen, notes=[*failure_notes(session), *foreseen.notes])
    run = run_inputs(session, plans, lambda own: measure(session, "check", own, request, options))
    return gate.judge(run, session)
