"""`qdq finish`: the last step of a run in parts."""

import os
from dataclasses import replace
from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.gate import Gate, Judging, judging_options
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.part import given_command
from qdqcli.cli.project import with_project
from qdqcli.cli.run import Writing, quantize
from qdqcli.cli.run import run as run_command
from qdqcli.errors import OutputError
from qdqcli.escape import show_path
from qdqcli.tensors.remote_path import RemotePath


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq finish MODEL_INT4
  qdq finish MODEL_INT4 --report loss.html --budget budget.toml""",
)
@click.argument("output", metavar="OUTPUT", type=opt.OutputPath(path_type=Path))
@click.option("--verify", is_flag=True, help="Read the output back before it gets its name.")
@click.option("--provenance", is_flag=True, help="Say beside a file, too, how it was made: OUTPUT.qdq.json.")
@click.option("--break-lock", is_flag=True, help="Go on where a process that has ended left its lock (no flock).")
@judging_options
@opt.presentation_options
@opt.by_option
@opt.histograms_option
@opt.work_options
@opt.verbosity_options
@pass_call(asked=Judging)
def finish(call: Call, /, output: Path, verify: bool, provenance: bool, break_lock: bool, asked: Judging) -> None:
    """Commit the OUTPUT of a run in parts, report, and judge.

    Checks that 'qdq run INPUT -o OUTPUT --part I/N' has made every file, with the same input and settings, and gives
    OUTPUT its name. The report is that of a run in one piece. With --budget, exit code 1 when it is exceeded: OUTPUT is
    there all the same.
    """
    from qdqcli.output.placement import anchored

    prepare_libraries()
    command = given_command(output)
    reports = tuple(path.absolute() for path in call.report.reports)
    budget, baseline = (None if path is None else path.absolute() for path in (asked.budget, asked.baseline))
    output = anchored(output).absolute()
    try:
        os.chdir(command.folder)  # the parts' paths hold there
    except OSError as error:
        if not isinstance(output, RemotePath):
            raise OutputError(
                f"{show_path(Path(command.folder))}: {error.strerror}; the parts ran here; finish where it is seen"
            ) from error
    context = run_command.make_context("run", list(command.arguments), parent=click.get_current_context().parent)
    with context.scope(cleanup=False):
        of_parts, writing = _of_parts(**context.params)
        call = replace(
            of_parts,
            report=replace(call.report, reports=reports, per_channel=of_parts.report.per_channel),
            resources=replace(call.resources, device=of_parts.resources.device, dask=of_parts.resources.dask),
        )
        gate = None
        if budget or baseline:
            gate = Gate.of(replace(asked, budget=budget, baseline=baseline), call)
        if call.needs_project:
            call = with_project(call, reports_tensors=not reports)
        writing = replace(
            writing,
            output=output, verify=verify, provenance=provenance, break_lock=break_lock, part=None, resume=True,
        )  # fmt: skip
        quantize(call, writing, gate=gate, must_be_complete=True)


@pass_call(asked=Writing)
def _of_parts(call: Call, /, asked: Writing) -> tuple[Call, Writing]:
    """Return the options that the parts of the run were given, as `run` gets them."""
    return call, asked
