"""`qdq plan`: choose bits per tensor under a size or error budget, write a recipe."""

import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import click

from qdqcli.cli import options as opt
from qdqcli.cli.deliver import deliver_pieces, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_recipe
from qdqcli.cli.help import Command
from qdqcli.cli.limits import prepare_libraries
from qdqcli.cli.measure import open_inputs, packed_inputs
from qdqcli.cli.option_sources import recipe_options
from qdqcli.cli.session import Session, pass_session
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
)
from qdqcli.recipe.goal import Goal

_MAX_BITS = 64
_MAX_DIGITS = 40
"""Digits after the point of `--avg-bits`: as an exact fraction 1e-999999999 takes minutes."""


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
    with suppress(InvalidOperation, ValueError):
        number = Decimal(value)
        if 0 <= number <= _MAX_BITS and -int(number.as_tuple().exponent) <= _MAX_DIGITS:
            return Fraction(number)
    raise click.BadParameter(f"{value!r} is not a number of bits such as 4.25")


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


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
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
        click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="RECIPE",
                     help="Recipe to write (TOML), for --recipe."),
        click.option("--overwrite", is_flag=True, help="Replace RECIPE if it exists."),
        click.option("--candidates", type=parse_candidates, default=",".join(DEFAULT_CANDIDATES), show_default=True,
                     metavar="LIST", help="Settings to choose from: schemes, and float to leave a tensor as it is."),
        click.option("--group-size", "-g", type=click.IntRange(min=1), default=DEFAULT_GROUP_SIZE, show_default=True,
                     metavar="N", help="Group size of candidates that name no granularity."),
        click.option("--estimator", type=click.Choice(list(ESTIMATORS)), default="minmax", show_default=True,
                     help="Choose ranges by this estimator for all candidates."),
        click.option("--objective", type=click.Choice(["relative", "energy", "worst"]), default="relative",
                     show_default=True, help="Minimise the sum of relative squared errors of the tensors, the sum of "
                     "squared errors, or the largest relative error."),
        click.option("--importance", type=click.Path(path_type=Path), metavar="FILE",
                     help="Multiply losses by numbers from this JSON file: {PATTERN: number}, the last match counts."),
        click.option("--tie", type=click.Choice(["auto", "none"]), default="auto", show_default=True,
                     help="Give tensors that engines fuse (q/k/v, gate/up, routed experts) one choice; none: only "
                     "equal ones."),
        click.option("--min-bits", type=parse_bound, multiple=True, metavar="[PATTERN=]N",
                     help="Choose at least N bits for tensors that match. Repeatable."),
        click.option("--max-bits", type=parse_bound, multiple=True, metavar="[PATTERN=]N",
                     help="Choose at most N bits for tensors that match. Repeatable."),
        click.option("--count", type=click.Choice(["selected", "all"]), default="selected", show_default=True,
                     help="Let --avg-bits count the weights that are planned, or all of the checkpoint."),
        click.option("--backend", type=click.Choice([ANY, *BACKENDS]), default=ANY, show_default=True,
                     help="Choose only from what this inference engine stores."),
        click.option("--frontier", type=click.IntRange(min=2), metavar="N",
                     help="Show the best loss at N sizes, from the smallest to the largest, too."),
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
@opt.inputs_argument
@plan_options
@opt.arithmetic_option
@recipe_options
@opt.selection_options
@opt.packed_option
@opt.destination_options
@click.option(
    "--top",
    type=click.IntRange(min=0),
    metavar="N",
    show_default="20",
    help="Show the N decisions that lose most; 0: all.",
)
@opt.scale_bits_option
@opt.work_options
@opt.device_option
@opt.verbosity_options
@pass_session
def plan(session: Session, /, inputs: tuple[str, ...], **options: Any) -> None:
    """Choose bits for each tensor under a budget, and write the choice as a recipe.

    Every candidate is measured on every tensor by the op, on one read; the choice is then solved exactly, or the gap to
    the optimum is stated. The budget is never exceeded, and no uniform candidate that fits is better. The default loss
    orders plans by what is known of perplexity; it does not predict the quality of a model, which has to be measured.
    """
    goal = Goal(
        avg_bits=options["avg_bits"],
        target_size=options["target_size"],
        max_loss=options["max_loss"],
        min_sqnr_db=options["min_sqnr"],
        counts_all=options["count"] == "all",
    )
    opt.check_formats(options, ("table", "json", "markdown", "html"), "a plan")
    files = Files.of(options)
    files.check()
    output = options["output"]
    check_replaceable(output, is_recipe, is_allowed=options["overwrite"])
    names = options["candidates"], options["group_size"], options["estimator"], options["backend"]
    settings, keeps_float = candidates_of(*names)
    base = {"num_bits": 8, "axis": "none", "group_size": None, "signed_input": True, "narrow_range": False,
            "round_mode": "HALF_TO_EVEN", "percentile": None}  # fmt: skip
    request = opt.request_of({**options, **base}, session)
    checkpoints = open_inputs(inputs, options, session)
    files.check(checkpoints)
    packed = packed_inputs(checkpoints, options, session)
    prepare_libraries()
    from qdqcli.report.allocation import PlanView, render
    from qdqcli.run.pipeline import result_of
    from qdqcli.study.allocation import Wanted, decision_of, frontier, make_problem
    from qdqcli.study.planning import bound_of, importance_of, reach, read_importance, recipe_of

    wanted = Wanted(
        objective=options["objective"],
        keeps_float=keeps_float,
        automatic_ties=options["tie"] == "auto",
        importance=importance_of({} if options["importance"] is None else read_importance(options["importance"])),
        min_bits=bound_of(options["min_bits"], 0),
        max_bits=bound_of(options["max_bits"], 64),
    )
    columns, swept = measure_settings(session, checkpoints, request, settings, packed, options)
    problem = make_problem(columns, swept, wanted)
    found = reach(problem, goal, columns[0], checkpoints)
    sizes_and_losses = [] if options["frontier"] is None else frontier(problem, options["frontier"])
    explained = [decision_of(found, name) for name in options["explain"]]
    text = recipe_of(
        found,
        columns[0],
        checkpoints,
        packed,
        command=shlex.join(["qdq", *sys.argv[1:]]),
        min_ndim=request.recipe.min_ndim,
    )
    write_report(output, [text], replaces=options["overwrite"])
    shown = result_of("plan", columns[0], {**request.settings, **_described(options)}, found.rows)
    view = PlanView(allocation=found, result=shown, frontier=sizes_and_losses, explained=explained)
    deliver_pieces(lambda name, choice: render(view, name, replace(choice, top=options["top"])), options)
    session.note(f"{show_path(output)}: written; 'qdq stats MODEL --recipe {output.name}' gives the plan's figures")


def _described(options: opt.Options) -> dict[str, Any]:
    """Return the plan's own options as JSON values."""
    names = ("target_size", "max_loss", "min_sqnr", "candidates", "group_size", "estimator", "objective", "tie",
             "count", "backend")  # fmt: skip
    bounds = {name: [f"{pattern}={number}" for pattern, number in options[name]] for name in ("min_bits", "max_bits")}
    average = None if options["avg_bits"] is None else float(options["avg_bits"])
    importance = None if options["importance"] is None else str(options["importance"])
    return {"avg_bits": average, "importance": importance, **{name: options[name] for name in names}, **bounds}
