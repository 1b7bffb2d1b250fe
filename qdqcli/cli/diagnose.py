"""`qdq diagnose`: causes of the worst errors, and the measured gain of other settings."""

import shlex
from functools import partial
from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver_pieces, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_recipe
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import cluster_of, opened, plan_inputs, workers_of
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.progress import progress
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import UsageError
from qdqcli.escape import escape, show_path
from qdqcli.recipe.plan import check_selection
from qdqcli.report.forms import STUDY_FORMATS, check_forms


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq diagnose MODEL_FOLDER --scheme int4-g128
  qdq diagnose MODEL_FOLDER --scheme int8-channel --worst 10
  qdq diagnose MODEL_FOLDER -s int4-g128 --max-bits-added 0.25 --write-recipe fix.toml""",
)
@project_inputs
@click.option("--worst", type=click.IntRange(min=1), metavar="N", help="Diagnose the N tensors with the lowest SQNR.",
              show_default="those with the largest errors, until they hold 80% of the squared error")  # fmt: skip
@click.option("--all", "diagnoses_all", is_flag=True, help="Diagnose all tensors that are quantized.")
@click.option("--max-bits-added", type=click.FloatRange(min=0, max=4), default=0.1, show_default=True, metavar="B",
              help="Combine changes that add up to B bits per weight to a tensor; 0: only those that are free.",
              )  # fmt: skip
@click.option("--from", "saved_sweep", type=click.Path(path_type=Path), metavar="SWEEP.json",
              help="Take the error under the present settings from this report of qdq sweep, which has them.",
              )  # fmt: skip
@click.option("--write-recipe", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the settings with the best changes as a recipe (TOML), for --recipe.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file of --write-recipe if it exists.")
@opt.estimating_options
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.from_packed_option
@opt.study_options(STUDY_FORMATS)
@pass_call()
def diagnose(
    call: Call,
    /,
    worst: int | None,
    diagnoses_all: bool,
    max_bits_added: float,
    saved_sweep: Path | None,
    write_recipe: Path | None,
    overwrite: bool,
) -> None:
    """Say why the worst tensors are bad, and measure what other settings gain.

    Each tensor gets a cause by name with its evidence, the accounting of its SQNR, and up to three changes of its
    settings: those that add at most 0.1 bits per weight first, then by decibels per added bit. Every gain is measured
    by the op on all elements; it is the difference of two runs of `qdq stats`. Tensors that --include names are all
    diagnosed.
    """
    check_forms("a diagnosis", STUDY_FORMATS, call.report.formats)
    if worst is not None and diagnoses_all:
        raise UsageError("--worst excludes --all; give one of them")
    if overwrite and write_recipe is None:
        raise UsageError("--overwrite is for the recipe that is written; add --write-recipe FILE")
    session = call.session
    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = Files.of(call, write_recipe=write_recipe, saved_sweep=saved_sweep)
    if write_recipe is not None:
        check_replaceable(write_recipe, is_recipe, is_allowed=overwrite)
    request, checkpoints = opened(call, files)
    plans = plan_inputs(call, checkpoints, request)
    check_selection(plans)
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.report.diagnosis import DIAGNOSIS
    from qdqcli.run.execute import measure_plans, result_of
    from qdqcli.run.pipeline import Measuring
    from qdqcli.study.diagnose import choose, recipe_of
    from qdqcli.study.diagnose import diagnose as find
    from qdqcli.study.saved import read_sweep

    with workers_of(call) as workers:
        if saved_sweep is not None:
            saved = read_sweep(saved_sweep).under(request.recipe)
            saved.check_scale_bits(request.scale_bits)
            rows = saved.restore([plans], request.settings).results[0].rows
        else:
            with cluster_of(call) as distribution, progress(call.session, plans) as advance:
                measuring = Measuring(scale_bits=request.scale_bits, on_bytes=advance)
                rows = measure_plans(plans, measuring, workers, distribution)
        before = result_of("diagnose", plans, request.settings, rows)
        numbers = choose(before.rows, worst, takes_all=diagnoses_all or bool(call.settings["include"]))
        tensors = [tensor for plan in plans for tensor in plan.shard.tensors]
        total = sum(tensors[number].nbytes for number in numbers)
        with progress(session, phase="trying other settings", total_bytes=total) as advance:
            measuring = Measuring(scale_bits=request.scale_bits, on_bytes=advance)
            found = find(plans, before, numbers, measuring, workers, max_bits_added)
    if write_recipe is not None:
        command = shlex.join(["qdq", *session.arguments])
        text = recipe_of(found, plans, command=command, min_ndim=request.recipe.min_ndim)
        write_report(write_recipe, [text], replaces=overwrite)
    deliver_pieces(partial(DIAGNOSIS.render, found), call.report)
    if write_recipe is not None:
        session.note(
            f"{show_path(write_recipe)}: written; 'qdq stats MODEL --recipe {escape(write_recipe.name)}' gives the "
            "figures of the last line"
        )
    elif any(one.together is not None for one in found.diagnoses):
        session.note("--write-recipe fix.toml writes these changes as a recipe, for --recipe")
