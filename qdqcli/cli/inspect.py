"""`qdq inspect`: list the tensors of a checkpoint and the decision on each."""

from dataclasses import replace

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, ReportRequest, pass_call
from qdqcli.cli.deliver import deliver_listing
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.measure import listing_of, measure, opened, plan_inputs
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import UsageError
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.recipe.listing import Listing, with_ranges
from qdqcli.recipe.plan import check_selection, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.request import Request
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed


def _renamed(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Explain the new name of an option whose old name takes a file in other commands."""
    if value:
        raise UsageError("inspect has no --ranges; it reads the data with --data")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq inspect MODEL_FOLDER
  qdq inspect MODEL_FOLDER --scheme int4-g128
  qdq inspect MODEL_FOLDER --preset linear-only --scheme int4-g128
  qdq inspect model.safetensors --data --format json""",
)
@project_inputs
@click.option(
    "--data",
    is_flag=True,
    help="Read the data of all floating-point tensors too: smallest and largest element, NaN and infinities.",
)
@click.option("--ranges", is_flag=True, hidden=True, expose_value=False, callback=_renamed)
@opt.op_options
@recipe_options
@opt.selection_options
@opt.from_packed_option
@opt.listing_options
@opt.work_options
@opt.verbosity_options
@pass_call()
def inspect(call: Call, /, data: bool) -> None:
    """List tensors: dtype, shape, size, and what `run` with the same options would do to each.

    Reads headers only, unless --data is given.
    """
    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = Files.of(call)
    request, checkpoints = opened(call, files)
    plans = plan_inputs(call, checkpoints, request)
    listing = listing_of("inspect", plans, request)
    if data:
        listing = _with_ranges(call, listing, checkpoints)
    deliver_listing(call, listing)
    if not any(plan.packed.weights for plan in plans):
        check_selection(plans)


def _with_ranges(call: Call, listing: Listing, checkpoints: list[Checkpoint]) -> Listing:
    """Return the listing with the extremes of every floating-point tensor, quantized or skipped."""
    plain = Recipe(spec=QuantSpec(compute_dtype=ComputeDType.FLOAT32))
    plans, _ = make_plans(checkpoints, plain, [Packed()] * len(checkpoints))
    if not any(isinstance(decision, QuantSpec) for plan in plans for decision in plan.decisions):
        return listing
    request = Request(recipe=plain, ranges_file=None, settings={})
    plain_call = replace(call, report=ReportRequest())
    return with_ranges(listing, measure(plain_call, "inspect", plans, request))
