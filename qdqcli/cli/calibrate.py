"""`qdq calibrate`: estimate ranges and store them for `--ranges`."""

from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver_listing
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import cluster_of, listing_of, opened, plan_inputs, workers_of
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.progress import progress
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.escape import show_path
from qdqcli.recipe.listing import with_estimates
from qdqcli.recipe.plan import check_selection
from qdqcli.report.number import counted


@click.command(
    cls=Command,
    options_metavar="-o RANGES [OPTIONS]",
    epilog="""\b
Examples:
  qdq calibrate MODEL_FOLDER -o ranges.safetensors --scheme int4-channel --estimator mse
  qdq calibrate weights.npy -o ranges.json --estimator percentile --percentile 99.9""",
)
@project_inputs
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="RANGES",
    help="File to write: .safetensors, or .json.",
)
@click.option("--overwrite", is_flag=True, help="Replace RANGES if it exists, once the new one is whole.")
@opt.estimating_options
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.listing_options
@opt.work_options
@opt.dask_option
@opt.verbosity_options
@pass_call()
def calibrate(call: Call, /, output: Path, overwrite: bool) -> None:
    """Estimate the ranges of tensors and store them in a file that --ranges takes.

    With settings that are otherwise the same, the file gives `run` and `stats` what the estimator would give them.
    minmax is the exception: a range that is given is clamped to, which matters for negative elements and unsigned
    codes.
    """
    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = _checked_files(call, output, overwrite=overwrite)
    request, checkpoints = opened(call, files)
    plans = plan_inputs(call, checkpoints, request)
    check_selection(plans)
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.run.calibrate import calibrate as estimate

    with (
        cluster_of(call) as distribution,
        progress(call.session, plans, "estimating") as advance,
        workers_of(call) as workers,
    ):
        overall_ranges = estimate(plans, output, workers, advance, overwrite=overwrite, distribution=distribution)
    deliver_listing(call, with_estimates(listing_of("calibrate", plans, request), overall_ranges))
    call.session.note(
        f"{show_path(output)} has the ranges of {counted(len(overall_ranges), 'tensor')}, "
        "for --ranges with the same settings"
    )


def _checked_files(call: Call, output: Path, *, overwrite: bool) -> Files:
    """Check before the work that the file can be written; returns it with the others of the call.

    Raises:
        UsageError: its suffix is of no format; it exists, or is another file of the command; its folder does not exist.
        OutputError: its folder is not writable.
    """
    from qdqcli.output.placement import check_free
    from qdqcli.ranges.output import check_ranges_path

    check_ranges_path(output)
    files = Files.of(call, output=output)
    check_free(output, is_folder=False, may_exist=overwrite)
    return files
