"""`qdq run`: quantize and dequantize, write the same layout, report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qdqcli.cli import options as opt
from qdqcli.cli.deliver import deliver_files, deliver_listing, say_written, show
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import job_of, listing_of, open_inputs, plan_inputs, say_notes, working
from qdqcli.cli.session import Session, pass_session
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.recipe.plan import check_selection
from qdqcli.report.number import counted, size_text

if TYPE_CHECKING:
    from qdqcli.output.tree import OutputTree


@click.command(
    cls=Command,
    options_metavar="-o OUTPUT [OPTIONS]",
    epilog="""\b
Examples:
  qdq run model.safetensors -o model-int8.safetensors
  qdq run MODEL_FOLDER -o MODEL_INT4 --scheme int4-g128
  qdq run weights.npy -o clipped.npy --input-min -1 --input-max 1 --report loss.csv
  qdq run MODEL_FOLDER -o OUT --scheme int8-channel --dry-run""",
)
@opt.inputs_argument
@opt.output_options("the input's layout; of several inputs, a folder of entries")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an interrupted run on the same input with the same settings; begin where there is none.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Read the output back before it gets its name: every byte must be what input and settings give.",
)
@click.option(
    "--provenance",
    is_flag=True,
    help="Say beside a file, too, how it was made: OUTPUT.qdq.json. A folder always gets qdq.json.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done to each tensor; write nothing.")
@opt.measuring_options
@pass_session
def run(
    session: Session,
    /,
    inputs: tuple[str, ...],
    output: Path,
    overwrite: bool,
    break_lock: bool,
    resume: bool,
    verify: bool,
    provenance: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Quantize and dequantize tensors, write them in the same layout, report the error.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Tensors that are
    not selected, metadata and all other files are copied byte for byte. OUTPUT appears when it is whole; what is
    interrupted before goes on with --resume.
    """
    # Imported late: `qdq run --help` does not need it.
    from qdqcli.output.files import NamedFile
    from qdqcli.output.placement import anchored
    from qdqcli.output.tree import OutputTree, places_of

    if dry_run and verify:
        raise UsageError("--dry-run writes nothing that --verify could read back; give one of them")
    options["reports"] = tuple(map(anchored, options["reports"]))
    files = Files.of(options)
    files.check()
    request = opt.request_of(options, session)
    checkpoints = files.less_reports(open_inputs(inputs, options, session))
    plans = plan_inputs(checkpoints, request, options, session)
    files.check(checkpoints, places_of(output))
    tree = OutputTree(checkpoints, output, overwrite=overwrite, resume=resume, break_lock=break_lock)
    say_notes(tree.notes, session)
    if provenance and not tree.is_folder:
        tree.check_provenance()
        files.writes.append(NamedFile(tree.provenance_path, "--provenance"))
        files.check(checkpoints)
    if dry_run:
        deliver_listing(listing_of("run", plans, request, options), options)
        session.note(f"dry run: {show_path(output)} was not written")
        return
    check_selection(plans)
    prepare_libraries()
    # NumPy and Numba take longer than everything that may have found an error.
    from qdqcli.run.execute import Destination, execute_run

    destination = Destination(
        tree=tree,
        verify=verify,
        provenance=provenance,
        void_dtype=options["void_dtype"] and options["void_dtype"].upper(),
        needs_rows=bool(options["reports"]) or options["format_name"] != "none",
    )
    with tree:
        with working(session, plans, request, options, destination.num_passes, "quantizing") as (
            measuring,
            workers,
            progress,
        ):
            job = job_of("run", plans, request, options, measuring)
            result = execute_run(job, destination, workers, progress, session.note)
        deliver_files(result, options)  # before the journal is deleted: a run killed here already has its report
    show(result, options)
    say_written(session, options, *([tree_in_words(tree)] if tree.has_written else []))


def tree_in_words(tree: "OutputTree") -> str:
    """Return OUTPUT and its size in words."""
    names = list(tree.names()) if tree.is_folder else []
    sizes = [(tree.output / name).stat().st_size for name in names] or [tree.output.stat().st_size]
    files = f"{counted(len(names), 'file')}, " if tree.is_folder else ""
    return f"{show_path(tree.output)} ({files}{size_text(sum(sizes))})"
