"""`qdq sweep`: many settings on one read of each tensor, side by side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, Function, pass_call
from qdqcli.cli.deliver import deliver_pieces
from qdqcli.cli.files import Files
from qdqcli.cli.help import Command, completing
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import cluster_of, opened, packed_inputs, workers_of
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.progress import progress
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.errors import UsageError
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.request import Request
from qdqcli.recipe.scheme import SCHEMES, settings_of_scheme
from qdqcli.recipe.sweep import LADDER, Setting, Sweep, settings_of
from qdqcli.report.forms import SWEEP_FORMATS
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed

if TYPE_CHECKING:
    from qdqcli.study.saved import SavedSweep


Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Settings to combine."""

    bits: Sequence[int] | None
    axes: Sequence[str | int] | None
    group_sizes: Sequence[int] | None
    estimators: Sequence[str] | None
    schemes: Sequence[str]
    unsigned_input: bool
    percentile: float | None


def parse_bits_list(value: str) -> list[int]:
    """Parse `2..8`, `3,4,8` or a mix of both."""
    found: list[int] = []
    for part in value.split(","):
        first, dots, last = part.partition("..")
        ends = [first, last] if dots else [first]
        if not all(re.fullmatch(r"\d{1,2}", end) for end in ends):
            raise click.BadParameter(f"{part!r} is not a number of bits or a range such as 2..8")
        found += range(int(first), int(ends[-1]) + 1)
    return _unique(found, value)


def parse_axis_list(value: str) -> list[str | int]:
    """Parse `none,0,0+1`: a pair has a plus sign here."""
    return _unique([opt.parse_axis(part.replace("+", ",")) for part in value.split(",")], value)


def parse_size_list(value: str) -> list[int]:
    """Parse `32,64,128`."""
    if not all(part.isdecimal() and int(part) for part in value.split(",")):
        raise click.BadParameter(f"{value!r} is not a list of group sizes such as 32,64,128")
    return _unique([int(part) for part in value.split(",")], value)


def parse_estimator_list(value: str) -> list[str]:
    """Parse `minmax,mse`."""
    known = ", ".join(ESTIMATORS)
    for part in value.split(","):
        if part not in ESTIMATORS:
            raise click.BadParameter(f"{part!r} is not one of {known}")
    return _unique(value.split(","), value)


def _unique(found: Sequence[Item], value: str) -> list[Item]:
    if not found:
        raise click.BadParameter(f"{value!r} holds nothing")
    return list(dict.fromkeys(found))


def sweep_options(function: Function) -> Function:
    """Add the settings to combine."""
    return opt.apply(
        function,
        click.option("--num-bits", "-b", "bits", type=parse_bits_list, metavar="LIST", show_default="8",
                     help="Bits of a code: 2..8, or 3,4,8."),
        click.option("--axis", "axes", type=parse_axis_list, metavar="LIST",
                     help="One range per index along these dimensions, each by itself: none,0,last; a pair with a "
                     "plus sign: 0+1."),
        click.option("--group-size", "-g", "group_sizes", type=parse_size_list, metavar="LIST",
                     help="Groups along the last axis: 32,64,128."),
        click.option("--estimator", "estimators", type=parse_estimator_list, metavar="LIST", show_default="minmax",
                     help=f"How ranges are chosen: any of {','.join(ESTIMATORS)}."),
        click.option("--scheme", "-s", "schemes", type=opt.parse_scheme, multiple=True, metavar="SCHEME",
                     shell_complete=completing(lambda: SCHEMES),
                     help="A setting by its name, e.g. int4-g128, beside the combinations. Repeatable."),
        click.option("--unsigned-input", is_flag=True, help="Use codes without a sign in the combinations."),
        click.option("--percentile", type=float, metavar="P", show_default="99.99",
                     help="For the estimator percentile: let P % of the elements be at or below the upper end."),
        click.option("--round-mode", type=click.Choice(["HALF_TO_EVEN", "HALF_UP"], case_sensitive=False),
                     default="HALF_TO_EVEN", show_default=True, metavar="MODE",
                     help="Round ties HALF_TO_EVEN or HALF_UP."),
        click.option("--narrow-range/--no-narrow-range", default=False, show_default="no",
                     help="Leave out the lowest signed code: -127..127."),
        opt.arithmetic_option,
    )  # fmt: skip


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq sweep MODEL_FOLDER
  qdq sweep MODEL_FOLDER --num-bits 2..8 --group-size 32,64,128 --report sweep.html
  qdq sweep MODEL_FOLDER -b 4 -g 32,128 --axis 0 --estimator minmax,mse --by tensor""",
)
@project_inputs
@sweep_options
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.from_packed_option
@click.option("--by", "rows_by", type=click.Choice(["setting", "tensor"]), default="setting", show_default=True,
              help="Show a row per setting, or per tensor with its SQNR under each setting.")  # fmt: skip
@click.option("--pareto", is_flag=True, help="Show only settings that no other dominates.")
@opt.study_options(SWEEP_FORMATS)
@pass_call(lists=Lists)
def sweep(call: Call, /, lists: Lists, rows_by: str, pareto: bool) -> None:
    """Measure many settings on one read of each tensor; writes no tensors.

    Every combination of the lists is a setting; its figures are those of `qdq stats` with that setting. Without a list:
    int8 per channel, int4 and int3 per channel and in groups of 128, 64 and 32, each with minmax and mse. A setting
    that the shape of a tensor forbids leaves that tensor out, with the reason in the reports.
    """
    from qdqcli.report.sweep import SWEEP, SweepView

    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = Files.of(call)
    SWEEP.check(call.report.formats)
    request, checkpoints = opened(call, files, num_bits=8, axis="none", group_size=None, estimator="minmax",
                                  signed_input=True, percentile=None)  # fmt: skip
    packed = packed_inputs(call, checkpoints)
    _, found = measure_settings(call, checkpoints, request, chosen_settings(lists), packed)
    if pareto:
        found = found.front()
    by = "tensor" if rows_by == "tensor" else None
    deliver_pieces(partial(SWEEP.render, SweepView(found, by)), call.report)


def measure_settings(
    call: Call,
    checkpoints: Sequence[Checkpoint],
    request: Request,
    settings: Sequence[Setting],
    packed: Sequence[Packed],
    saved: "SavedSweep | None" = None,
) -> tuple[list[list[Plan]], Sweep]:
    """Decide on and measure every setting, with a progress bar: plans per setting, and what was measured, or saved.

    Raises:
        UsageError: the selection does not fit the checkpoints, or no setting fits any tensor.
    """
    prepare_libraries()
    # Imported late: NumPy and Numba take longer than everything before, which may have found an error.
    from qdqcli.run.pipeline import Measuring
    from qdqcli.study.sweep import plan_sweep, run_sweep

    allow_unmatched = call.reading.allow_unmatched
    columns, warnings = plan_sweep(checkpoints, request.recipe, settings, packed, allow_unmatched=allow_unmatched)
    call.session.note(*warnings)
    if saved is not None:
        return columns, saved.restore(columns, request.settings)
    with (
        cluster_of(call) as distribution,
        progress(call.session, columns[0]) as advance,
        workers_of(call) as workers,
    ):
        measuring = Measuring(scale_bits=request.scale_bits, on_bytes=advance)
        return columns, run_sweep(columns, settings, measuring, workers, request.settings, distribution)


def chosen_settings(lists: Lists) -> list[Setting]:
    """Return the settings of the lists and schemes; the ladder where there are none.

    Raises:
        UsageError: --percentile without that estimator.
    """
    bits, axes, group_sizes, is_signed = lists.bits, lists.axes, lists.group_sizes, not lists.unsigned_input
    estimators = lists.estimators or ["minmax"]
    if lists.percentile is not None and "percentile" not in estimators:
        raise UsageError("--percentile needs --estimator percentile")
    if not (bits or axes or group_sizes or lists.estimators or lists.schemes):
        return [replace(setting, signed_input=is_signed) for setting in LADDER]
    settings = []
    if bits or axes or group_sizes or not lists.schemes:
        if not axes and not group_sizes:
            axes = ["none"]
        settings = settings_of(bits or [8], axes or [], group_sizes or [], estimators, signed_input=is_signed)
    for scheme in lists.schemes:
        settings += [Setting(**settings_of_scheme(scheme), estimator=estimator) for estimator in estimators]
    settings = [
        replace(setting, percentile=lists.percentile) if setting.estimator == "percentile" else setting
        for setting in settings
    ]
    return list(dict.fromkeys(settings))
