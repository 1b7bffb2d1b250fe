"""`qdq check`: measure, or read a stored report, and judge; only the verdict sets exit code 1."""

from dataclasses import replace

import click

from qdqcli.cli import options as opt
from qdqcli.cli.batch import failure_notes
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.files import Files
from qdqcli.cli.gate import Gate, Judging, gate_options
from qdqcli.cli.help import Command
from qdqcli.cli.measure import listing_of, measure, measure_each, opened, plan_inputs
from qdqcli.cli.option_sources import given_parameters
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import UsageError
from qdqcli.recipe.plan import check_selection
from qdqcli.result.read import read_report


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
@pass_call(asked=Judging)
def check(call: Call, /, asked: Judging) -> None:
    """Measure like stats and judge by a budget; exit code 1 when it is exceeded.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Without INPUT, or
    without --budget, the nearest qdq.toml, or pyproject.toml with [tool.qdq], is taken.
    """
    session = call.session
    if call.inputs and asked.report_in is not None:
        raise UsageError("give INPUT, or --report-in REPORT.json to judge what was measured before")
    if session.keeps_going and asked.report_in is not None:
        raise UsageError("--keep-going has no meaning with --report-in: the report was measured before")
    _check_needed(asked)
    call = with_project(call, is_gate=True)
    files = Files.of(call, asked)
    gate = Gate.of(asked, call)
    if gate.budget is None and not (asked.write_baseline or asked.write_budget):
        raise UsageError("nothing to judge by; give --budget FILE, or make one with --write-budget FILE or 'qdq init'")
    gate.add_files(files)
    if asked.report_in is not None:
        run = gate.judge(read_report(asked.report_in), session)
    else:
        request, checkpoints = opened(call, files)
        plans = plan_inputs(call, checkpoints, request)
        check_selection(plans)
        foreseen = gate.foresee(listing_of("check", plans, request))
        if foreseen is not None:
            run = replace(foreseen, notes=[*failure_notes(session), *foreseen.notes])
        else:
            work = measure_each if session.keeps_going else measure
            run = gate.judge(work(call, "check", plans, request), session)
    gate.conclude(run, call)


JUDGING = (
    *("config", "report_in", "budget", "baseline", "today", "exit_zero", "allow_unmatched"),
    *("write_baseline", "write_budget", "headroom", "ratchet", "overwrite"),
    *("format_name", "reports", "sort", "top", "by"),
)
"""Options that apply to a stored report."""


def _check_needed(asked: Judging) -> None:
    """Refuse options without effect.

    Raises:
        UsageError: a measuring option with a stored report, or headroom with no file to write.
    """
    for parameter in given_parameters():
        flag = parameter.opts[0]
        if asked.report_in is not None and parameter.name not in JUDGING and parameter.expose_value:
            raise UsageError(f"{flag} has no meaning with --report-in: the report was measured before")
        if parameter.name == "headroom" and not (asked.write_budget or asked.ratchet):
            raise UsageError("--headroom is for limits that are written; add --write-budget FILE or --ratchet")
        if parameter.name == "overwrite" and not (asked.write_budget or asked.write_baseline):
            raise UsageError("--overwrite replaces files that are written; add --write-budget or --write-baseline FILE")
