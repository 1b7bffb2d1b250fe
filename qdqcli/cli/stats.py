"""`qdq stats`: measure, write no tensors."""

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.measure import measure, measure_each, opened, plan_inputs
from qdqcli.cli.project import project_inputs, with_project


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
@pass_call()
def stats(call: Call, /) -> None:
    """Measure what quantization loses; writes no tensors.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Without it, the
    nearest qdq.toml, or pyproject.toml with [tool.qdq], names model and settings.
    """
    if call.needs_project:
        call = with_project(call)
    files = Files.of(call)
    request, checkpoints = opened(call, files)
    work = measure_each if call.session.keeps_going else measure
    deliver(call, work(call, "stats", plan_inputs(call, checkpoints, request), request))
