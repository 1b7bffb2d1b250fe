"""Planning: from the goal of a bit allocation to its recipe, for the command and for Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.recipe.document import Document, read_text
from qdqcli.recipe.goal import Goal
from qdqcli.recipe.patterns import compile_pattern, listed
from qdqcli.recipe.plan import Plan, make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.recipe.sweep import Sweep
from qdqcli.recipe.tie_file import AUTO, NO_TIES, NamedTies, ties_among
from qdqcli.recipe.toml_text import plans_of
from qdqcli.study.allocation import (
    UNBOUNDED,
    Allocation,
    Objective,
    Problem,
    Wanted,
    allocate,
    allocate_for_loss,
    allocate_for_sqnr,
    allocate_for_summary,
    choice_of,
    make_problem,
    misfits_of,
    selected_names,
)
from qdqcli.study.importance import NO_IMPORTANCE, Importance
from qdqcli.study.plan_recipe import check_recipe, notes_of, recipe_text
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed

Bounds = Sequence[tuple[str, int]]
"""(pattern, bits); the last match counts."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Request of a plan."""

    goal: Goal
    objective: Objective = "relative"
    keeps_float: bool = False
    """True where leaving a tensor in float is a candidate."""
    importance: Importance = NO_IMPORTANCE
    tie: str | Document = AUTO
    """`auto`, `none`, or a file beside the automatic ties."""
    min_bits: Bounds = ()
    max_bits: Bounds = ()
    recipe: Recipe | None = None
    """The recipe as given, if any: the plan is no worse."""
    against: Path | None = None
    """An earlier plan: this one is no worse."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan, and the choice of an earlier one that it was made against."""

    allocation: Allocation
    against: Sequence[int] | None = None


def plan_bits(
    order: Order,
    columns: Sequence[Sequence[Plan]],
    sweep: Sweep,
    checkpoints: Sequence[Checkpoint],
    packed: Sequence[Packed],
    workers: Workers,
) -> Planned:
    """Return the best allocation for measured candidates.

    `columns` are the plans of each candidate, `sweep` what was measured under them.

    Raises:
        UsageError: no allocation keeps the goal, or a name in the order's files matches no tensor.
    """
    plans = columns[0]
    if not order.keeps_float:
        check_fits(columns)
    names = selected_names(sweep)
    order.importance.check(names)
    ties = ties_among(order.tie, names) if isinstance(order.tie, Document) else NamedTies()
    wanted = Wanted(
        objective=order.objective,
        keeps_float=order.keeps_float,
        automatic_ties=order.tie != NO_TIES,
        groups=ties.groups,
        apart=ties.apart,
        importance=order.importance.of,
        weighted=order.importance.weighted(plans, sweep, workers),
        min_bits=bound_of(order.min_bits, plans, "min_bits", max, 0),
        max_bits=bound_of(order.max_bits, plans, "max_bits", min, UNBOUNDED),
    )
    problem = make_problem(columns, sweep, wanted)
    against = None if order.against is None else choice_against(problem, order.against, checkpoints, packed)
    starts = [] if against is None else [against]
    if order.recipe is not None:
        starts += starts_of(problem, checkpoints, packed, order.recipe)
    return Planned(allocation=reach(problem, order.goal, plans, checkpoints, starts), against=against)


def check_fits(columns: Sequence[Sequence[Plan]]) -> None:
    """Check that no tensor is left out because its shape forbids every candidate; `columns` as in `plan_bits`.

    Raises:
        UsageError: one is; names the tensors.
    """
    tensors = [tensor for plan in columns[0] for tensor in plan.shard.tensors]
    misfits = {tensors[number].name: skip.reason for number, skip in misfits_of(columns).items()}
    if misfits:
        raise UsageError(
            f"{listed(list(misfits))}: no candidate fits: {next(iter(misfits.values()))}; add one such as "
            "int4-channel, or float to leave them as they are, or --exclude them"
        )


def reach(
    problem: Problem,
    goal: Goal,
    plans: Sequence[Plan],
    checkpoints: Sequence[Checkpoint],
    starts: Sequence[Sequence[int]] = (),
) -> Allocation:
    """Return the best allocation that keeps the goal; within a budget, never worse than one of `starts` that fits.

    Raises:
        UsageError: none keeps it; names the floor.
    """
    if goal.max_loss is not None:
        return allocate_for_loss(problem, goal.max_loss)
    if goal.min_sqnr_db is not None:
        return (allocate_for_summary if goal.is_summary else allocate_for_sqnr)(problem, goal.min_sqnr_db)
    planned = {member for decision in problem.decisions for member in decision.tie.members}
    tensors = [tensor for plan in plans for tensor in plan.shard.tensors]
    others = [tensor for number, tensor in enumerate(tensors) if number not in planned]
    other_bits = 8 * sum(tensor.nbytes for tensor in others)
    if goal.target_size is not None:
        data = sum(tensor.nbytes for tensor in tensors)
        overhead = sum(shard.output_bytes for checkpoint in checkpoints for shard in checkpoint.shards) - data
        return allocate(problem, 8 * (goal.target_size - overhead) - other_bits, starts)
    assert goal.avg_bits is not None
    if not goal.counts_all:
        return allocate(problem, int(goal.avg_bits * problem.num_elements), starts)
    num_elements = problem.num_elements + sum(tensor.num_elements for tensor in others)
    return allocate(problem, int(goal.avg_bits * num_elements) - other_bits, starts)


def recipe_of(
    found: Allocation,
    plans: Sequence[Plan],
    checkpoints: Sequence[Checkpoint],
    packed: Sequence[Packed],
    *,
    command: str,
    min_ndim: int | None,
) -> str:
    """Return the TOML text of the plan's recipe; it decides the same for every tensor.

    Raises:
        UsageError: all tensors stay in float, or no pattern can tell some tensors from others.
    """
    decided = [member for decision in found.problem.decisions for member in decision.tie.members]
    digests = sorted(shard.header_digest() for checkpoint in checkpoints for shard in checkpoint.shards)
    about = [
        f"Bit allocation by: {command}",
        f"Headers of the input: sha256 {sha256(''.join(digests).encode()).hexdigest()}",
        f"{found.bits_per_weight:.4f} bits per weight, {found.bits:,} bits",
        f"Loss: {found.problem.objective} {found.loss:.9g}",
        f"Proof: {found.solution.proof}, gap {found.solution.gap:.3g}",
    ]
    text = recipe_text(found.rows, decided, plans, about, min_ndim, notes_of(found))
    check_recipe(found.rows, plans_of(text, checkpoints, packed))
    return text


def bound_of(
    bounds: Bounds, plans: Sequence[Plan], key: str, strictest: Callable[[int, int], int], default: int
) -> Callable[[int, str], int]:
    """Return the bound of a tensor, by row and name: the strictest of the options' and the recipe's.

    Args:
        bounds: those of the options.
        plans: of any candidate; their rules hold the recipe's bounds.
        key: the recipe key.
        strictest: `max` for lower bounds, `min` for upper ones.
        default: where there is none.
    """  # fmt: skip
    tests = [(compile_pattern(pattern), number) for pattern, number in bounds]
    by_recipe = [resolution.settings.get(key) for plan in plans for resolution in plan.resolutions]

    def of(row: int, name: str) -> int:
        found = next((number for matches, number in reversed(tests) if matches(name)), default)
        setting = by_recipe[row]
        return found if setting is None or setting.value is None else strictest(found, setting.value)

    return of


def starts_of(
    problem: Problem, checkpoints: Sequence[Checkpoint], packed: Sequence[Packed], recipe: Recipe
) -> list[list[int]]:
    """Return the choice of a recipe as given, if the candidates have all its settings."""
    plans, _ = make_plans(checkpoints, replace(recipe, skips_misfits=True), packed, allow_unmatched=True)
    choice, missing = choice_of(problem, [decision for plan in plans for decision in plan.decisions])
    return [] if missing else [choice]


def choice_against(
    problem: Problem, path: Path, checkpoints: Sequence[Checkpoint], packed: Sequence[Packed]
) -> list[int]:
    """Return the choice of an earlier plan's recipe.

    Raises:
        UsageError: not a recipe, or it gives a tensor settings that no candidate has.
    """
    text = read_text(path, "an earlier plan is a recipe")
    try:
        plans = plans_of(text, checkpoints, packed, show_path(path))
    except UsageError as error:
        if str(error).startswith(show_path(path)):
            raise
        raise UsageError(f"--against {show_path(path)}: {error}") from error
    choice, missing = choice_of(problem, [decision for plan in plans for decision in plan.decisions])
    if missing:
        raise UsageError(
            f"--against {show_path(path)}: gives {listed(missing)} settings that no candidate has; add them"
        )
    return choice
