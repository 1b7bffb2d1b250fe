"""`qdq stats`: measure, write no tensors."""

import click

from qdqcli.cli import options as opt
from qdqcli.cli.deliver import deliver
from qdqcli.cli.files import Files
from qdqcli.cli.groups import Reading, ReportRequest, Resources, grouped
from qdqcli.cli.help import Command
from qdqcli.cli.measure import measure, open_inputs, plan_inputs
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.cli.session import Session, pass_session
from qdqcli.recipe.request import Settings


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq stats model.safetensors
  qdq stats MODEL_FOLDER --scheme int4-g128
  qdq stats MODEL_FOLDER --scheme int8-channel --exclude '*embed*' --report report.json""",
)
@project_inputs
@opt.keep_going_option
@opt.measuring_options
@opt.from_packed_option
@pass_session
@grouped(settings=Settings, reading=Reading, report=ReportRequest, resources=Resources)
def stats(
    session: Session,
    /,
    inputs: tuple[str, ...],
    config: str | None,
    settings: Settings,
    reading: Reading,
    report: ReportRequest,
    resources: Resources,
) -> int:
    """Measure what quantization loses; writes no tensors.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Without it, the
    nearest qdq.toml, or pyproject.toml with [tool.qdq], names model and settings.
    """
    inputs, settings, report = with_project(inputs, config, settings, report, session)
    files = Files.of(session, report, settings)
    files.check()
    request = opt.request_of(settings, session, from_packed=reading.from_packed)
    checkpoints = open_inputs(inputs, reading, session)
    files.check(checkpoints)
    plans = plan_inputs(checkpoints, request, reading, session)
    deliver(measure(session, "stats", plans, request, reading, report, resources), report, session)
    return session.conclude()
