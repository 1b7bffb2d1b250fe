"""`qdq plan`: choose bits per tensor under a size or error budget, write a recipe."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qdqcli.cli import options as opt
from qdqcli.cli.deliver import deliver_pieces, write_report
from qdqcli.cli.files import Files
from qdqcli.cli.gate_files import check_replaceable, is_recipe
from qdqcli.cli.help import Command
from qdqcli.cli.layers import recipe_options
from qdqcli.cli.measure import open_inputs, packed_inputs
from qdqcli.cli.session import Session, pass_session
from qdqcli.cli.sweep import measure_settings
from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.scheme import is_scheme, settings_of_scheme
from qdqcli.recipe.sweep import Setting
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.storage import read_file
from qdqcli.tensors.strict_json import parse_object

if TYPE_CHECKING:
    from qdqcli.study.allocation import Allocation, Problem

FLOAT = "float"
DEFAULT_CANDIDATES = "int2,int3,int4,int5,int6,int8"
BACKENDS: Mapping[str, tuple[frozenset[int], frozenset[int] | None]] = {
    "vllm": (frozenset({4, 8}), None),
    "gptq": (frozenset({2, 3, 4, 8}), None),
    "awq": (frozenset({4}), None),
    "mlx": (frozenset({2, 3, 4, 5, 6, 8}), frozenset({32, 64, 128})),
}
"""Inference engine -> bits of its integer weights, and its group sizes, where they are limited."""
MAX_IMPORTANCE_BYTES = 16 << 20
MAX_FACTOR = 1e30
"""Maximum factor: beyond it a loss could leave the range of float64."""


_MAX_BITS = 64
_MAX_DIGITS = 40
"""Digits after the point of `--avg-bits`: as an exact fraction 1e-999999999 takes minutes."""


def parse_candidates(value: str) -> list[str]:
    """Parse `int3,int4-g32,float`."""
    names = value.split(",")
    for name in names:
        if name != FLOAT and not is_scheme(name):
            raise click.BadParameter(f"{name!r} is not a candidate such as int4, int4-g32, int8-channel or float")
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
        click.option("--candidates", type=parse_candidates, default=DEFAULT_CANDIDATES, show_default=True,
                     metavar="LIST", help="Settings to choose from: schemes, and float to leave a tensor as it is."),
        click.option("--group-size", "-g", type=click.IntRange(min=1), default=128, show_default=True, metavar="N",
                     help="Group size of candidates that name no granularity."),
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
        click.option("--backend", type=click.Choice(["any", *BACKENDS]), default="any", show_default=True,
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
@opt.talk_options
@pass_session
def plan(session: Session, /, inputs: tuple[str, ...], **options: Any) -> None:
    """Choose bits for each tensor under a budget, and write the choice as a recipe.

    Every candidate is measured on every tensor by the op, on one read; the choice is then solved exactly, or the gap to
    the optimum is stated. The budget is never exceeded, and no uniform candidate that fits is better. The default loss
    orders plans by what is known of perplexity; it does not predict the quality of a model, which has to be measured.
    """
    goals = [name for name in ("avg_bits", "target_size", "max_loss", "min_sqnr") if options[name] is not None]
    if len(goals) != 1:
        raise UsageError("give one of --avg-bits, --target-size, --max-loss and --min-sqnr")
    opt.check_formats(options, ("table", "json", "markdown"), "a plan")
    files = Files.of(options)
    files.check()
    output = options["output"]
    check_replaceable(output, is_recipe, is_allowed=options["overwrite"])
    settings, keeps_float = candidates_of(options)
    base = {"num_bits": 8, "axis": "none", "group_size": None, "signed_input": True, "narrow_range": False,
            "round_mode": "HALF_TO_EVEN", "percentile": None}  # fmt: skip
    request = opt.request_of({**options, **base}, session)
    checkpoints = open_inputs(inputs, options, session)
    files.check(checkpoints)
    packed = packed_inputs(checkpoints, options, session)
    importance = _importance(options["importance"])
    columns, swept = measure_settings(session, checkpoints, request, settings, packed, options)
    from qdqcli.report.allocation import PlanView, render
    from qdqcli.run.pipeline import result_of
    from qdqcli.study.allocation import Wanted, decision_of, frontier, make_problem
    from qdqcli.study.plan_recipe import check_recipe, notes_of, plans_of, recipe_text

    wanted = Wanted(
        objective=options["objective"],
        keeps_float=keeps_float,
        automatic_ties=options["tie"] == "auto",
        importance=importance,
        min_bits=_bound(options["min_bits"], 0),
        max_bits=_bound(options["max_bits"], 64),
    )
    problem = make_problem(columns, swept, wanted)
    found = _solved(problem, columns[0], checkpoints, options)
    min_ndim = request.recipe.min_ndim
    sizes_and_losses = [] if options["frontier"] is None else frontier(problem, options["frontier"])
    explained = [decision_of(found, name) for name in options["explain"]]
    decided = [member for decision in problem.decisions for member in decision.tie.members]
    about = _about(found, checkpoints, options)
    text = recipe_text(found.rows, decided, columns[0], about, min_ndim, notes_of(found))
    check_recipe(found.rows, plans_of(text, checkpoints, packed))
    write_report(output, [text], replaces=options["overwrite"])
    shown = result_of("plan", columns[0], {**request.settings, **_described(options)}, found.rows)
    view = PlanView(allocation=found, result=shown, frontier=sizes_and_losses, explained=explained)
    deliver_pieces(lambda name, choice: render(view, name, replace(choice, top=options["top"])), options)
    session.note(f"{show_path(output)}: written; 'qdq stats MODEL --recipe {output.name}' gives the plan's figures")


def candidates_of(options: opt.Options) -> tuple[list[Setting], bool]:
    """Return the candidate settings, and True if float is one of them.

    Raises:
        UsageError: the back end stores none of them.
    """
    names = options["candidates"]
    settings = []
    for name in names:
        if name != FLOAT:
            changes = dict(settings_of_scheme(name))
            if "axis" not in changes:
                changes["group_size"] = options["group_size"]
            settings.append(Setting(**changes, estimator=options["estimator"]))
    if options["backend"] != "any":
        bits, groups = BACKENDS[options["backend"]]
        settings = [s for s in settings if s.num_bits in bits and (groups is None or s.group_size in groups)]
    if not settings:
        raise UsageError(f"none of {', '.join(names)} is left for the back end {options['backend']}; add candidates")
    return list(dict.fromkeys(settings)), FLOAT in names


def _solved(
    problem: "Problem", plans: Sequence[Plan], checkpoints: Sequence[Checkpoint], options: opt.Options
) -> "Allocation":
    """Return the plan for the one goal that was given."""
    from qdqcli.study.allocation import allocate, allocate_for_loss, allocate_for_sqnr

    if options["max_loss"] is not None:
        return allocate_for_loss(problem, options["max_loss"])
    if options["min_sqnr"] is not None:
        return allocate_for_sqnr(problem, options["min_sqnr"])
    planned = {member for decision in problem.decisions for member in decision.tie.members}
    tensors = [tensor for plan in plans for tensor in plan.shard.tensors]
    others = [tensor for number, tensor in enumerate(tensors) if number not in planned]
    other_bits = 8 * sum(tensor.nbytes for tensor in others)
    if options["target_size"] is not None:
        data = sum(tensor.nbytes for tensor in tensors)
        overhead = sum(shard.output_bytes for checkpoint in checkpoints for shard in checkpoint.shards) - data
        return allocate(problem, 8 * (options["target_size"] - overhead) - other_bits)
    if options["count"] == "selected":
        return allocate(problem, int(options["avg_bits"] * problem.num_elements))
    num_elements = problem.num_elements + sum(tensor.num_elements for tensor in others)
    return allocate(problem, int(options["avg_bits"] * num_elements) - other_bits)


def _bound(bounds: Sequence[tuple[str, int]], default: int) -> Callable[[str], int]:
    """Return a function from names to the number of the last matching pattern."""
    tests = [(compile_pattern(pattern), number) for pattern, number in bounds]

    def of(name: str) -> int:
        return next((number for matches, number in reversed(tests) if matches(name)), default)

    return of


def _importance(path: Path | None) -> Callable[[str], float]:
    """Return a function from names to the factor of the tensor's loss.

    Raises:
        UsageError: not a JSON object of numbers that are not negative.
    """
    if path is None:
        return lambda _: 1.0
    try:
        data = parse_object(read_file(path, MAX_IMPORTANCE_BYTES))
    except InputError as error:
        raise UsageError(f"{error}; expected JSON {{PATTERN: number}}") from None
    except MalformedError as error:
        raise UsageError(f"{show_path(path)}: {error}; expected JSON {{PATTERN: number}}") from None
    factors: dict[str, float] = {}
    for pattern, number in data.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= MAX_FACTOR:
            raise UsageError(f"{show_path(path)}: '{escape_name(pattern)}': expected a number from 0 to {MAX_FACTOR:g}")
        factors[pattern] = float(number)
    tests = [(compile_pattern(pattern), factor) for pattern, factor in factors.items()]
    return lambda name: next((factor for matches, factor in reversed(tests) if matches(name)), 1.0)


def _about(found: "Allocation", checkpoints: Sequence[Checkpoint], options: opt.Options) -> list[str]:
    digests = sorted(shard.header_digest() for checkpoint in checkpoints for shard in checkpoint.shards)
    headers = sha256("".join(digests).encode()).hexdigest()
    command = shlex.join(["qdq", *sys.argv[1:]])
    return [
        f"Bit allocation by: {command}",
        f"Headers of the input: sha256 {headers}",
        f"{found.bits_per_weight:.4f} bits per weight, {found.bits:,} bits",
        f"Loss: {options['objective']} {found.loss:.9g}",
        f"Proof: {found.solution.proof}, gap {found.solution.gap:.3g}",
    ]


def _described(options: opt.Options) -> dict[str, Any]:
    """Return the plan's own options as JSON values."""
    names = ("target_size", "max_loss", "min_sqnr", "candidates", "group_size", "estimator", "objective", "tie",
             "count", "backend")  # fmt: skip
    bounds = {name: [f"{pattern}={number}" for pattern, number in options[name]] for name in ("min_bits", "max_bits")}
    average = None if options["avg_bits"] is None else float(options["avg_bits"])
    importance = None if options["importance"] is None else str(options["importance"])
    return {"avg_bits": average, "importance": importance, **{name: options[name] for name in names}, **bounds}
