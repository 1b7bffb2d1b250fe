"""`qdq plan`: choose bits per tensor under a size or error budget, write a recipe."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdqcli.cli import options as opt
from qdqcli.cli.call import Call, Function, pass_call
from qdqcli.cli.deliver import deliver_pieces, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_recipe
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import opened, packed_inputs, workers_of
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.project import project_inputs, with_project
from qdqcli.cli.sweep import measure_settings
from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.recipe.candidates import (
    ANY,
    BACKENDS,
    DEFAULT_CANDIDATES,
    DEFAULT_GROUP_SIZE,
    candidates_of,
    check_candidates,
    stored_by,
)
from qdqcli.recipe.file import read_recipe
from qdqcli.recipe.goal import Goal, exact_bits
from qdqcli.recipe.sweep import Setting
from qdqcli.recipe.tie_file import AUTO, NO_TIES, read_ties
from qdqcli.report.forms import STUDY_FORMATS, check_forms

if TYPE_CHECKING:
    from qdqcli.study.allocation import Objective
    from qdqcli.study.saved import SavedSweep

LARGEST_GAP = 0.001
"""Gap to the optimum beyond which a plan comes with a warning."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """Goal, candidates and constraints of a plan, and what is shown of it."""

    avg_bits: Fraction | None
    target_size: int | None
    max_loss: float | None
    min_sqnr: float | None
    summary: bool
    output: Path
    overwrite: bool
    candidates: Sequence[str] | None
    group_size: int
    estimator: str
    objective: "Objective"
    importance: Path | None
    tie: str
    saved_sweep: Path | None
    against: Path | None
    min_bits: Sequence[tuple[str, int]]
    max_bits: Sequence[tuple[str, int]]
    count: str
    backend: str
    frontier: int | None
    explain: Sequence[str]

    @property
    def tie_file(self) -> Path | None:
        return None if self.tie in (AUTO, NO_TIES) else Path(self.tie)


def parse_candidates(value: str) -> list[str]:
    """Parse `int3,int4-g32,float`."""
    names = value.split(",")
    try:
        check_candidates(names)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    return list(dict.fromkeys(names))


def parse_average(value: str) -> Fraction:
    """Parse a number of bits as an exact fraction."""
    number = exact_bits(value)
    if number is None:
        raise click.BadParameter(f"{value!r} is not a number of bits such as 4.25")
    return number


def parse_finite(value: str) -> float:
    """Parse a number that is neither infinite nor NaN."""
    with suppress(ValueError):
        if isfinite(number := float(value)):
            return number
    raise click.BadParameter(f"{value!r} is not a number such as 0.5")


def parse_bound(value: str) -> tuple[str, int]:
    """Parse `3`, or `*embed*=4`."""
    pattern, _, number = value.rpartition("=")
    if not number.isdecimal():
        raise click.BadParameter(f"{value!r} is not N or PATTERN=N, e.g. '*embed*=4'")
    return pattern or "*", int(number)


def plan_options(function: Function) -> Function:
    """Add the goal, the recipe to write, and the candidates."""
    return opt.apply(
        function,
        click.option("--avg-bits", type=parse_average, metavar="B",
                     help="Spend at most B bits per weight, scales included."),
        click.option("--target-size", type=opt.parse_size, metavar="SIZE",
                     help="Let the packed checkpoint, with headers and the tensors that stay in float, have at most "
                     "SIZE."),
        click.option("--max-loss", type=parse_finite, metavar="X",
                     help="Take the smallest size whose loss is at most X."),
        click.option("--min-sqnr", type=parse_finite, metavar="DB",
                     help="Take the smallest size at which each tensor has DB dB."),
        click.option("--summary", is_flag=True,
                     help="Let --min-sqnr bound the SQNR over all quantized elements instead of each tensor's."),
        click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="RECIPE",
                     help="Recipe to write (TOML), for --recipe."),
        click.option("--overwrite", is_flag=True, help="Replace RECIPE if it exists."),
        click.option("--candidates", type=parse_candidates, show_default=",".join(DEFAULT_CANDIDATES),
                     metavar="LIST", help="Settings to choose from: schemes, and float to leave a tensor as it is."),
        click.option("--group-size", "-g", type=click.IntRange(min=1), default=DEFAULT_GROUP_SIZE, show_default=True,
                     metavar="N", help="Group size of candidates that name no granularity."),
        click.option("--estimator", type=click.Choice(list(ESTIMATORS)), default="minmax", show_default=True,
                     help="Choose ranges by this estimator for all candidates."),
        click.option("--objective", type=click.Choice(["relative", "energy", "worst"]), default="relative",
                     show_default=True, help="Minimise the sum of relative squared errors of the tensors, the sum of "
                     "squared errors, or the largest relative error."),
        click.option("--importance", type=click.Path(path_type=Path), metavar="FILE",
                     help="Multiply losses by numbers from this file: JSON {PATTERN: number}, the last match counts; "
                     "or .npz or .safetensors with a number per tensor, or a vector with one per input channel."),
        click.option("--tie", default=AUTO, show_default=True, metavar="auto|none|FILE",
                     help="Give tensors that engines fuse (q/k/v, gate/up, routed experts) one choice; none: only "
                     "equal ones; FILE (TOML): also those in its [[together]] tables, not those in [[apart]]."),
        click.option("--from", "saved_sweep", type=click.Path(path_type=Path), metavar="SWEEP.json",
                     help="Take the measurements from this report of qdq sweep; unless --candidates is "
                     "given, its settings are the candidates."),
        click.option("--against", type=click.Path(path_type=Path), metavar="RECIPE",
                     help="Be no worse than this earlier plan, if it fits the budget, and show it beside."),
        click.option("--min-bits", type=parse_bound, multiple=True, metavar="[PATTERN=]N",
                     help="Choose at least N bits for tensors that match. Repeatable."),
        click.option("--max-bits", type=parse_bound, multiple=True, metavar="[PATTERN=]N",
                     help="Choose at most N bits for tensors that match. Repeatable."),
        click.option("--count", type=click.Choice(["selected", "all"]), default="selected", show_default=True,
                     help="Let --avg-bits count the weights that are planned, or all of the checkpoint."),
        click.option("--backend", type=click.Choice([ANY, *BACKENDS]), default=ANY, show_default=True,
                     help="Choose only from what this inference engine stores."),
        click.option("--frontier", type=click.IntRange(2, 1000), metavar="N",
                     help="Show the best loss at N sizes, up to 1,000, from the smallest to the largest, too."),
        click.option("--explain", multiple=True, metavar="TENSOR",
                     help="Show all candidates of this tensor's decision with what they cost and lose. Repeatable."),
    )  # fmt: skip


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  qdq plan MODEL_FOLDER --avg-bits 5 -o plan.toml
  qdq plan MODEL_FOLDER --min-sqnr 4 --candidates int4,int8,float -o plan.toml
  qdq plan MODEL_FOLDER --avg-bits 4.5 --min-bits '*embed*=3' --report plan.json -o plan.toml""",
)
@project_inputs
@plan_options
@opt.arithmetic_option
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.study_options(STUDY_FORMATS)
@click.option(
    "--top",
    type=click.IntRange(min=0),
    metavar="N",
    show_default="20",
    help="Show the N decisions that lose most; 0: all.",
)
@pass_call(asked=Planning)
def plan(call: Call, /, asked: Planning) -> None:
    """Choose bits for each tensor under a budget, and write the choice as a recipe.

    Every candidate is measured on every tensor by the op, on one read; the choice is then solved exactly, or the gap to
    the optimum is stated. The budget is never exceeded, and no uniform candidate that fits is better. The default loss
    orders plans by what is known of perplexity; it does not predict the quality of a model, which has to be measured.
    """
    goal = Goal(
        avg_bits=asked.avg_bits,
        target_size=asked.target_size,
        max_loss=asked.max_loss,
        min_sqnr_db=asked.min_sqnr,
        is_summary=asked.summary,
        counts_all=asked.count == "all",
    )
    session = call.session
    check_forms("a plan", STUDY_FORMATS, call.report.formats)
    if call.needs_project:
        call = with_project(call, reports_tensors=False)
    files = Files.of(call, asked, tie_file=asked.tie_file)
    check_replaceable(asked.output, is_recipe, is_allowed=asked.overwrite)
    candidates, keeps_float, saved = _candidates(asked, call.settings["scale_bits"])
    request, checkpoints = opened(call, files, num_bits=8, axis="none", group_size=None, signed_input=True,
                                  narrow_range=False, round_mode="HALF_TO_EVEN", percentile=None)  # fmt: skip
    packed = packed_inputs(call, checkpoints)
    prepare_libraries()
    from qdqcli.report.allocation import PLAN, PlanView
    from qdqcli.run.execute import result_of
    from qdqcli.study.allocation import decision_of, frontier
    from qdqcli.study.importance import NO_IMPORTANCE, read_importance
    from qdqcli.study.planning import Order, plan_bits, recipe_of

    if asked.against is not None:
        read_recipe(asked.against)  # what is wrong with it is said before the work
    order = Order(
        goal=goal,
        objective=asked.objective,
        keeps_float=keeps_float,
        importance=NO_IMPORTANCE if asked.importance is None else read_importance(asked.importance),
        tie=asked.tie if asked.tie_file is None else read_ties(asked.tie_file),
        min_bits=asked.min_bits,
        max_bits=asked.max_bits,
        recipe=request.recipe if request.has_recipe else None,
        against=asked.against,
    )
    columns, swept = measure_settings(call, checkpoints, request, candidates, packed, saved)
    with workers_of(call) as workers:
        planned = plan_bits(order, columns, swept, checkpoints, packed, workers)
    found = planned.allocation
    if found.solution.gap > LARGEST_GAP:
        more = "take" if found.budget is None else "lose"
        session.note(f"warning: the plan may {more} up to {found.solution.gap:.2%} more than the best one")
    sizes_and_losses = [] if asked.frontier is None else frontier(found.problem, asked.frontier)
    explained = [decision_of(found, name) for name in asked.explain]
    text = recipe_of(
        found,
        columns[0],
        checkpoints,
        packed,
        command=shlex.join(["qdq", *session.arguments]),
        min_ndim=request.recipe.min_ndim,
    )
    write_report(asked.output, [text], replaces=asked.overwrite)
    shown = result_of("plan", columns[0], {**request.settings, **_described(asked)}, found.rows)
    view = PlanView(allocation=found, result=shown, frontier=sizes_and_losses, explained=explained,
                    against=planned.against)  # fmt: skip
    top = call.report.top
    deliver_pieces(lambda name, choice: PLAN.render(view, name, replace(choice, top=top)), call.report)
    session.note(
        f"{show_path(asked.output)}: written; 'qdq stats MODEL --recipe {asked.output.name}' gives the plan's figures"
    )


def _candidates(asked: Planning, scale_bits: int) -> "tuple[list[Setting], bool, SavedSweep | None]":
    """Return the candidate settings, True if float is one of them, and the saved sweep that has their results."""
    names = asked.candidates
    if asked.saved_sweep is None:
        own = names or DEFAULT_CANDIDATES
        return *candidates_of(own, asked.group_size, asked.estimator, asked.backend), None
    prepare_libraries()
    from qdqcli.study.saved import read_sweep

    saved = read_sweep(asked.saved_sweep)
    saved.check_scale_bits(scale_bits)
    if names is None:
        settings, keeps_float = stored_by(asked.backend, saved.settings), False
    else:
        settings, keeps_float = candidates_of(names, asked.group_size, asked.estimator, asked.backend)
    return settings, keeps_float, saved.selected(settings)


def _described(asked: Planning) -> dict[str, object]:
    """Return the plan's own options as JSON values."""
    names = ("target_size", "max_loss", "min_sqnr", "summary", "candidates", "group_size", "estimator", "objective",
             "tie", "count", "backend")  # fmt: skip
    bounds = {
        name: [f"{pattern}={number}" for pattern, number in getattr(asked, name)] for name in ("min_bits", "max_bits")
    }
    files = {"importance": "importance", "against": "against", "from": "saved_sweep"}
    paths = {name: None if getattr(asked, key) is None else str(getattr(asked, key)) for name, key in files.items()}
    average = None if asked.avg_bits is None else float(asked.avg_bits)
    return {"avg_bits": average, **paths, **{name: getattr(asked, name) for name in names}, **bounds}
