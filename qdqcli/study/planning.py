"""Planning: from the goal of a bit allocation to its recipe, for the command and for Python."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.recipe.goal import Goal
from qdqcli.recipe.patterns import compile_pattern
from qdqcli.recipe.plan import Plan
from qdqcli.study.allocation import Allocation, Problem, allocate, allocate_for_loss, allocate_for_sqnr
from qdqcli.study.plan_recipe import check_recipe, notes_of, plans_of, recipe_text
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.packed.recognise import Packed
from qdqcli.tensors.storage import read_file
from qdqcli.tensors.strict_json import parse_object

MAX_IMPORTANCE_BYTES = 16 << 20
MAX_FACTOR = 1e30
"""Maximum factor: beyond it a loss could leave the range of float64."""


def reach(problem: Problem, goal: Goal, plans: Sequence[Plan], checkpoints: Sequence[Checkpoint]) -> Allocation:
    """Return the best allocation that keeps the goal.

    Raises:
        UsageError: none keeps it; names the floor.
    """
    if goal.max_loss is not None:
        return allocate_for_loss(problem, goal.max_loss)
    if goal.min_sqnr_db is not None:
        return allocate_for_sqnr(problem, goal.min_sqnr_db)
    planned = {member for decision in problem.decisions for member in decision.tie.members}
    tensors = [tensor for plan in plans for tensor in plan.shard.tensors]
    others = [tensor for number, tensor in enumerate(tensors) if number not in planned]
    other_bits = 8 * sum(tensor.nbytes for tensor in others)
    if goal.target_size is not None:
        data = sum(tensor.nbytes for tensor in tensors)
        overhead = sum(shard.output_bytes for checkpoint in checkpoints for shard in checkpoint.shards) - data
        return allocate(problem, 8 * (goal.target_size - overhead) - other_bits)
    assert goal.avg_bits is not None
    if not goal.counts_all:
        return allocate(problem, int(goal.avg_bits * problem.num_elements))
    num_elements = problem.num_elements + sum(tensor.num_elements for tensor in others)
    return allocate(problem, int(goal.avg_bits * num_elements) - other_bits)


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


def bound_of(bounds: Sequence[tuple[str, int]], default: int) -> Callable[[str], int]:
    """Return a function from names to the number of the last matching pattern."""
    tests = [(compile_pattern(pattern), number) for pattern, number in bounds]

    def of(name: str) -> int:
        return next((number for matches, number in reversed(tests) if matches(name)), default)

    return of


def read_importance(path: Path) -> dict[str, float]:
    """Return pattern -> factor of the losses of the tensors that match.

    Raises:
        UsageError: not a JSON object of numbers that are not negative.
    """
    try:
        data = parse_object(read_file(path, MAX_IMPORTANCE_BYTES))
    except InputError as error:
        raise UsageError(f"{error}; expected JSON {{PATTERN: number}}") from None
    except MalformedError as error:
        raise UsageError(f"{show_path(path)}: {error}; expected JSON {{PATTERN: number}}") from None
    return checked_importance(data, show_path(path))


def checked_importance(data: Mapping[str, object], source: str) -> dict[str, float]:
    """Return the factors as floats.

    Raises:
        UsageError: one is not a number from 0 to `MAX_FACTOR`.
    """
    for pattern, number in data.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= MAX_FACTOR:
            raise UsageError(f"{source}: '{escape_name(pattern)}': expected a number from 0 to {MAX_FACTOR:g}")
    return {pattern: float(number) for pattern, number in data.items() if isinstance(number, int | float)}


def importance_of(factors: Mapping[str, float]) -> Callable[[str], float]:
    """Return a function from names to the factor of the last matching pattern; 1 where none matches."""
    tests = [(compile_pattern(pattern), factor) for pattern, factor in factors.items()]
    return lambda name: next((factor for matches, factor in reversed(tests) if matches(name)), 1.0)
