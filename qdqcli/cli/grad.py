"""`qdq grad`: the op's gradient, from files to files."""

from pathlib import Path

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import open_inputs, plan_inputs, say_notes, workers_of
from qdqcli.cli.streams import write
from qdqcli.errors import UsageError
from qdqcli.recipe.plan import check_selection
from qdqcli.report.escape import json_text
from qdqcli.report.gradients import render
from qdqcli.result.gradient import total_of


@click.command(
    cls=Command,
    options_metavar="-o OUTPUT [OPTIONS]",
    epilog="""\b
Examples:
  qdq grad gradients.npy weights.npy -o input_backprop.npy --input-min -1 --input-max 1
  qdq grad GRADIENTS_FOLDER MODEL_FOLDER -o OUT --axis 0""",
)
@click.argument("gradients", metavar="GRADIENTS", type=click.Path(readable=False))
@click.argument("input_", metavar="INPUT", type=click.Path(readable=False))
@opt.output_options("the layout of GRADIENTS")
@opt.gradient_options
@opt.selection_options
@click.option("--format", "format_name", type=click.Choice(["table", "json", "none"]), default="table",
              show_default=True, help="Choose what standard output gets.")  # fmt: skip
@opt.work_options
@opt.device_option
@opt.verbosity_options
@pass_call()
def grad(call: Call, /, gradients: str, input_: str, output: Path, overwrite: bool, break_lock: bool) -> None:
    """Compute the gradient of QuantizeAndDequantizeV4 with respect to its input.

    Each tensor of GRADIENTS passes where the tensor of that name in INPUT lies in its range, and is multiplied by 0
    elsewhere. A range that is not given is measured on INPUT. Two single files belong together whatever their tensors'
    names. OUTPUT has the layout of GRADIENTS; the gradients of the range's ends are zero and not written.
    """
    prepare_libraries()
    # Imported late: NumPy and Numba, which --help does not need.
    from qdqcli.output.tree import output_tree
    from qdqcli.run.digest import digest_output
    from qdqcli.run.fingerprint import digests_of_decisions
    from qdqcli.run.gradient import differentiate
    from qdqcli.run.provenance import Provenance

    request = opt.request_of(call)
    checkpoints = [*open_inputs(call, [gradients]), *open_inputs(call, [input_])]
    if len(checkpoints) != 2:
        raise UsageError("GRADIENTS and INPUT are one file or folder each")
    plans = plan_inputs(call, checkpoints[:1], request)
    check_selection(plans)
    tree = output_tree(checkpoints[:1], output, protected=checkpoints[1:], overwrite=overwrite, break_lock=break_lock)
    say_notes(tree.notes, call.session)
    with tree, workers_of(call) as workers:
        summaries = differentiate(plans, checkpoints[1], workers, tree)
        if tree.is_folder:
            decisions = digests_of_decisions(plans)
            made = Provenance(command="grad", inputs=checkpoints, decisions=decisions, settings=request.settings)
            digests = digest_output(tree.result, tree.names, workers)
            tree.write_marker(made.text(tree, digests, total_of(summaries), workers))
        tree.commit()
    if call.report.format_name == "json":
        write(json_text([vars(row) for row in summaries], indent=2) + "\n")
    elif call.report.format_name == "table":
        write(render(summaries))
