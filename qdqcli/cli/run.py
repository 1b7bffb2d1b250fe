"""`qdq run`: quantize and dequantize, write the same layout, report."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdqcli.cli import options as opt
from qdqcli.cli.batch import DONE, FINISHED, run_each_input
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver_files, deliver_listing, say_written, show
from qdqcli.cli.files import Files
from qdqcli.cli.gate import Gate
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import cluster_of, listing_of, open_inputs, plan_inputs, say_notes, working
from qdqcli.cli.part import check_part_options, parse_part, run_part
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import Interrupted, UsageError
from qdqcli.escape import show_path
from qdqcli.recipe.plan import Plan, check_selection, checkpoints_of
from qdqcli.recipe.request import Request
from qdqcli.report.number import counted, size_text
from qdqcli.result.result import RunResult
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.system_error import blame_output

if TYPE_CHECKING:
    from qdqcli.output.tree import OutputTree
    from qdqcli.run.distribute import Distribution


@dataclass(frozen=True, kw_only=True)
class Writing:
    """OUTPUT, and how it is written."""

    output: Path
    overwrite: bool
    break_lock: bool
    resume: bool
    verify: bool
    provenance: bool
    dry_run: bool
    part: tuple[int, int] | None
    """Number and count of the parts."""


@click.command(
    cls=Command,
    options_metavar="-o OUTPUT [OPTIONS]",
    epilog="""\b
Examples:
  qdq run model.safetensors -o model-int8.safetensors
  qdq run MODEL_FOLDER -o MODEL_INT4 --scheme int4-g128
  qdq run weights.npy -o clipped.npy --input-min -1 --input-max 1 --report loss.csv
  qdq run MODEL_FOLDER -o OUT --scheme int8-channel --dry-run
  qdq run MODEL_FOLDER -o OUT --scheme int8-channel --part 3/16""",
)
@project_inputs
@opt.output_options("the input's layout; of several inputs, or with --keep-going, a folder of entries")
@opt.keep_going_option
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
@click.option(
    "--part",
    type=parse_part,
    metavar="I/N",
    help="Make only part I of N, beside other processes; 'qdq finish OUTPUT' does the rest. auto: the task of a Slurm "
    "array or of a Kubernetes indexed job.",
)
@opt.measuring_options
@pass_call(asked=Writing)
def run(call: Call, /, asked: Writing) -> None:
    """Quantize and dequantize tensors, write them in the same layout, report the error.

    INPUT is a .npy, .npz or .safetensors file, a folder that holds a checkpoint, or a glob in quotes. Tensors that are
    not selected, metadata and all other files are copied byte for byte. OUTPUT appears when it is whole; what is
    interrupted before goes on with --resume.
    """
    if asked.part is not None:
        check_part_options()
    quantize(with_project(call) if call.needs_project else call, asked)


def quantize(call: Call, asked: Writing, *, gate: Gate | None = None, must_be_complete: bool = False) -> None:
    """Do the work of `qdq run`, of one part of it, or with `must_be_complete` of its last step."""
    # Imported late: `qdq run --help` does not need it.
    from qdqcli.output.placement import anchored
    from qdqcli.output.tree import check_names, output_paths

    if asked.dry_run and asked.verify:
        raise UsageError("--dry-run writes nothing that --verify could read back; give one of them")
    if call.report.reports:
        call = replace(call, report=replace(call.report, reports=tuple(map(anchored, call.report.reports))))
    session, report = call.session, call.report
    files = Files.of(call)
    if gate is not None:
        gate.add_files(files)
    request = opt.request_of(call)
    inputs = open_inputs(call)
    if report.reports:
        inputs = files.less_reports(inputs)
    plans = plan_inputs(call, inputs, request)
    inputs = checkpoints_of(plans)
    if files.reads or files.writes:
        files.check(inputs, output_paths(asked.output))
    outputs = _Outputs(call=call, request=request, files=files, inputs=inputs, asked=asked, gate=gate,
                       must_be_complete=must_be_complete)  # fmt: skip
    tree = None
    if session.keeps_going:  # each input has a tree of its own
        check_names(inputs)
    else:
        tree = outputs.tree(inputs, asked.output)
    if asked.dry_run:
        deliver_listing(call, listing_of("run", plans, request))
        session.note(f"dry run: {show_path(asked.output)} was not written")
        return
    check_selection(plans)
    prepare_libraries()
    if asked.part is not None and tree is not None:
        run_part(call, asked.part, plans, request, tree)
        return
    with cluster_of(call) as distribution:
        result = outputs.write_each(plans, distribution) if tree is None else outputs.write(plans, tree, distribution)
    if report.reports and tree is None:
        deliver_files(result, report)
    if gate is not None:
        session.exit_code = gate.exit_code(result)
    if report.format_name != "none":
        show(result, report, is_gate=gate is not None)
    if not session.quiet:
        say_written(call, *(tree_in_words(one) for one in outputs.done if one.has_written))


@dataclass(frozen=True, kw_only=True)
class _Outputs:
    """The trees that are written: one for all inputs or, with --keep-going, an entry of OUTPUT for each."""

    call: Call
    request: Request
    files: Files
    inputs: Sequence[Checkpoint]
    asked: Writing
    gate: Gate | None
    must_be_complete: bool
    done: "list[OutputTree]" = field(default_factory=list)
    """The trees that were written, or found finished."""

    def write_each(self, plans: Sequence[Plan], distribution: "Distribution | None") -> RunResult:
        """Quantize each input into an entry of OUTPUT, for --keep-going."""
        from qdqcli.output.placement import anchored
        from qdqcli.output.tree import entry_name

        session, output = self.call.session, anchored(self.asked.output)

        def write(own: Sequence[Plan]) -> RunResult:
            with blame_output(output):
                try:
                    output.mkdir(exist_ok=True)
                except FileExistsError:
                    raise UsageError(f"{show_path(output)}: is a file; with --keep-going OUTPUT is a folder") from None
            checkpoint = own[0].checkpoint
            return self.write(own, self.tree([checkpoint], output / entry_name(checkpoint)), distribution)

        try:
            return run_each_input(session, plans, write, lambda: DONE if self.done[-1].has_written else FINISHED)
        except Interrupted as error:
            if self.done:
                error.advise(f"{len(self.done)} of {len(session.inputs)} inputs are done, --resume keeps them")
            raise
        finally:
            with suppress(OSError):  # a folder without entries goes, one that has some stays
                output.rmdir()

    def write(self, plans: Sequence[Plan], tree: "OutputTree", distribution: "Distribution | None") -> RunResult:
        """Quantize some inputs into their tree, and judge them."""
        # NumPy and Numba take longer than everything that may have found an error.
        from qdqcli.run.execute import Job
        from qdqcli.run.write import Destination, execute_run

        call, report, session, asked = self.call, self.call.report, self.call.session, self.asked
        destination = Destination(
            tree=tree,
            verify=asked.verify,
            provenance=asked.provenance,
            void_dtype=call.reading.void_dtype,
            needs_rows=bool(report.reports) or report.format_name != "none" or self.gate is not None,
            must_be_complete=self.must_be_complete,
        )
        with tree:
            if tree.discarded_bytes is not None:
                discarded = f"an interrupted run was discarded ({size_text(tree.discarded_bytes)} of output)"
                session.note(f"{show_path(tree.output)}: {discarded}; --resume would have gone on with it")
            passes = destination.num_passes
            with working(call, plans, self.request, passes, "quantizing") as (measuring, workers, progress):
                job = Job(command="run", plans=plans, request=self.request, measuring=measuring,
                          has_histograms=report.has_histograms, distribution=distribution)  # fmt: skip
                result = execute_run(job, destination, workers, progress, session.note)
            if self.gate is not None:
                result = self.gate.judge(result, session)
            if report.reports and not session.keeps_going:
                deliver_files(result, report)  # before the journal is deleted: a run killed here has its report
        self.done.append(tree)
        return result

    def tree(self, own: Sequence[Checkpoint], output: Path) -> "OutputTree":
        """Return the tree of some inputs; prints its notes."""
        from qdqcli.output.files import NamedFile
        from qdqcli.output.tree import output_tree

        asked, is_part = self.asked, self.asked.part is not None
        tree = output_tree(own, output, protected=self.inputs, overwrite=asked.overwrite,
                          resume=asked.resume and not is_part, break_lock=asked.break_lock,
                          is_part=is_part)  # fmt: skip
        if tree.notes:
            say_notes(tree.notes, self.call.session)
        if asked.provenance and not tree.is_folder:
            tree.check_provenance()
            self.files.writes.append(NamedFile(tree.provenance_path, "--provenance"))
            self.files.check(self.inputs)
        return tree


def tree_in_words(tree: "OutputTree") -> str:
    """Return OUTPUT and its size in words."""
    files = f"{counted(len(tree.names), 'file')}, " if tree.is_folder else ""
    return f"{show_path(tree.output)} ({files}{size_text(tree.written_bytes())})"
