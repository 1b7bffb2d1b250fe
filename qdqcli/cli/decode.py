"""`qdq decode`: write a packed checkpoint as BF16, F16 or F32."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import say_written
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import open_inputs, say_notes, workers_of
from qdqcli.cli.progress import progress
from qdqcli.cli.run import tree_in_words
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.recipe.decision import Resolution, Skip
from qdqcli.recipe.plan import Plan, decoded_inputs, file_of
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.request import Request
from qdqcli.report.number import counted
from qdqcli.tensors.checkpoint import Checkpoint

if TYPE_CHECKING:
    from qdqcli.output.tree import OutputTree

DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}


@click.command(
    cls=Command,
    options_metavar="-o OUTPUT [OPTIONS]",
    epilog="""\b
Examples:
  qdq decode PACKED_FOLDER -o DECODED
  qdq decode PACKED_FOLDER -o DECODED_F32 --dtype f32 --verify""",
)
@click.argument("input_", metavar="INPUT", type=click.Path(readable=False))
@opt.output_options("the input's layout")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="bf16", show_default=True,
              help="Dtype of decoded weights; all other tensors keep theirs.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; begin where there is none.")
@click.option("--verify", is_flag=True, help="Read the output back, and decode once more, before it gets its name.")
@opt.follow_links_option
@opt.work_options
@opt.verbosity_options
@pass_call()
def decode(
    call: Call, /, input_: str, output: Path, dtype: str, overwrite: bool, break_lock: bool, resume: bool, verify: bool
) -> None:
    """Write a packed checkpoint (GPTQ, AWQ, FP8, GGUF, ...) as a float checkpoint.

    OUTPUT is what loaders of the original read: weights under their names, no quantization in config.json, an index of
    the new tensors, and a copy of everything else. Values are decoded in float32 and rounded once to --dtype. 'qdq help
    packed' lists the formats. What is interrupted goes on with --resume.
    """
    # Imported late: `qdq decode --help` does not need it.
    from qdqcli.output.placement import anchored
    from qdqcli.output.tree import output_paths, output_tree

    session = call.session
    files = Files.of(call)
    checkpoints = open_inputs(call, [input_])
    if len(checkpoints) != 1:
        raise UsageError(f"{input_}: {len(checkpoints)} inputs; decode takes one")
    (view,) = decoded_inputs(checkpoints, DTYPES[dtype])
    if all(shard in checkpoints[0].shards for shard in view.shards):
        raise UsageError(f"{show_path(view.path)}: no packed weights; there is nothing to decode")
    files.check(checkpoints, output_paths(anchored(output)))
    prepare_libraries()
    from qdqcli.tensors.packed.side_files import rewritten

    with rewritten(view, DTYPES[dtype]) as whole:
        tree = output_tree([whole], anchored(output), overwrite=overwrite, resume=resume, break_lock=break_lock)
        say_notes(tree.notes, session)
        with tree:
            _write(call, whole, tree, dtype, verify=verify)
    formats = ", ".join(dict.fromkeys(storage.format for storage in view.storage.values())) or "GGUF"
    session.note(f"decoded {counted(len(view.storage), 'weight')} in {formats} to {dtype}")
    say_written(call, *([tree_in_words(tree)] if tree.has_written else []))


def _write(call: Call, view: Checkpoint, tree: "OutputTree", dtype: str, *, verify: bool) -> None:
    """Write the decoded view as a run writes its output, in which every tensor is a copy of what the view reads."""
    from qdqcli.op.spec import QuantSpec
    from qdqcli.run.execute import Job
    from qdqcli.run.pipeline import Measuring
    from qdqcli.run.write import Destination, execute_run

    copied = Resolution(decision=Skip(reason="decoded"), settings={})
    plans = [
        Plan(checkpoint=view, shard=shard, file=file_of(shard), resolutions=[copied] * len(shard.tensors))
        for shard in view.shards
    ]
    request = Request(recipe=Recipe(spec=QuantSpec()), ranges_file=None, settings={"dtype": dtype})
    destination = Destination(tree=tree, verify=verify, needs_rows=False)
    passes = destination.num_passes
    with progress(call.session, plans, "decoding", passes=passes) as advance, workers_of(call) as workers:
        job = Job(command="decode", plans=plans, request=request, measuring=Measuring(on_bytes=advance))
        execute_run(job, destination, workers, advance, call.session.note)
