"""`qdq conventions`: the same tensors under the scale conventions of other libraries."""

from collections.abc import Sequence
from functools import partial

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, pass_call
from qdqcli.cli.deliver import deliver_pieces, say_written
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command, completing
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import opened, packed_inputs, workers_of
from qdqcli.cli.progress import progress
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import UsageError
from qdqcli.recipe.scheme import SCHEMES, settings_of_scheme
from qdqcli.recipe.sweep import Setting
from qdqcli.report.forms import LAB_FORMATS

DEFAULT_SCHEMES = ("int4-channel", "int4-g128", "int4-g32")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq conventions MODEL_FOLDER
  qdq conventions MODEL_FOLDER --scheme int8-channel --report conventions.json""",
)
@project_inputs
@click.option("--scheme", "-s", "schemes", type=opt.parse_scheme, multiple=True, metavar="SCHEME",
              default=DEFAULT_SCHEMES, show_default=",".join(DEFAULT_SCHEMES),
              shell_complete=completing(lambda: SCHEMES),
              help="Bits and granularity, signed, at most 8 bits. Repeatable.")  # fmt: skip
@opt.selection_options
@opt.packed_option
@opt.from_packed_option
@opt.destination_options(LAB_FORMATS)
@opt.work_options
@opt.verbosity_options
@pass_call()
def conventions(call: Call, /, schemes: Sequence[str]) -> None:
    """Compare the scale conventions of the field on the same tensors; writes no tensors.

    Libraries that agree on bits and groups still choose scales and round in ways of their own: PyTorch,
    compressed-tensors, ONNX Runtime, GGUF's Q4_0 and Q4_1. Each is computed with its own arithmetic, in float32, and
    set beside this op: SQNR, its mean difference over the tensors, and the share of elements with another value.
    """
    from qdqcli.report.conventions import LAB

    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = Files.of(call)
    LAB.check(call.report.formats)
    columns = _settings_of(schemes)
    request, checkpoints = opened(call, files, num_bits=8, axis="none", group_size=None)
    packed = packed_inputs(call, checkpoints)
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.study.conventions import run_lab
    from qdqcli.study.sweep import plan_sweep

    allow_unmatched = call.reading.allow_unmatched
    plans, warnings = plan_sweep(checkpoints, request.recipe, columns, packed, allow_unmatched=allow_unmatched)
    call.session.note(*warnings)
    with progress(call.session, plans[0]) as advance, workers_of(call) as workers:
        lab = run_lab(plans, columns, workers, request.settings, advance)
    deliver_pieces(partial(LAB.render, lab), call.report)
    say_written(call)


def _settings_of(schemes: Sequence[str]) -> list[Setting]:
    """Return the settings of the schemes.

    Raises:
        UsageError: one is unsigned, or has more bits than the libraries.
    """
    found = {name: Setting(**settings_of_scheme(name)) for name in schemes}
    for name, setting in found.items():
        if not setting.signed_input or not 2 <= setting.num_bits <= 8:
            raise UsageError(f"--scheme {name}: the conventions are of signed integers with 2 to 8 bits")
    return list(found.values())
