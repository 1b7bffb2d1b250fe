"""Bit allocation: choose one candidate setting per tensor that minimizes the loss within a budget of bits.

The loss of a tensor is its relative squared error, sum e^2 / sum x^2, by default: its sum over the layers is near
linear in the rise of perplexity at medium bit widths (HIGGS, arXiv 2411.17525). Costs are whole bits: codes, scales, or
the tensor's own dtype where it stays in float; equal tensors are stored, and counted, once.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from math import ceil, fsum, inf, log10, prod
from typing import Literal

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Decision as Decided
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.patterns import nearest_names
from qdqcli.recipe.plan import Plan
from qdqcli.recipe.sweep import Setting, Sweep
from qdqcli.result.result import Row, RunResult, SkippedTensor, TensorResult
from qdqcli.stats.metrics import METRICS
from qdqcli.stats.sums import value_of
from qdqcli.study.solver import Candidate, InfeasibleError, Solution, solve
from qdqcli.study.ties import Tie, make_ties
from qdqcli.tensors.tensor import DTYPES

_NAMES_SHOWN = 3

FLOAT = "float"
"""Name of the candidate that leaves a tensor as it is."""
LEFT_IN_FLOAT = "left in float by the plan"
"""Reason of such a tensor to be skipped."""
UNBOUNDED = 64
"""Bits of the widest dtype: no candidate has more, float neither."""
Objective = Literal["relative", "energy", "worst"]
LOSS_BITS = 52
"""Losses become integers in units of 2^-52 of the largest possible loss: no order of addition changes a plan."""
MAX_LOSS = 1 << 62
"""More units than all decisions lose together."""
LOWEST_DB = -3000.0
"""An SQNR that every tensor has: below it, the error relative to the energy leaves float64."""
_LARGEST = 1e300
"""Largest loss of a tensor: sums over all stay finite."""
_HASH_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Request for a plan."""

    objective: Objective = "relative"
    keeps_float: bool = False
    """True where leaving a tensor in float is a candidate."""
    automatic_ties: bool = True
    groups: Sequence[frozenset[str]] = ()
    """Names of tensors that share a choice, in addition."""
    apart: frozenset[str] = frozenset()
    """Names of tensors without automatic ties."""
    importance: Callable[[str], float] = lambda _: 1.0
    """Tensor name -> factor of its loss."""
    weighted: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    """(row, candidate) -> sums of squared errors and of squared elements, where input channels are weighted."""
    min_bits: Callable[[int, str], int] = lambda _number, _name: 0
    """Row and name of a tensor -> the fewest bits."""
    max_bits: Callable[[int, str], int] = lambda _number, _name: UNBOUNDED


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One candidate of one decision."""

    candidate: int
    """Index of the setting; the number of settings stands for float."""
    bits: int
    """Stored bits of all members; equal tensors count once."""
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Tensors that share a choice, and the candidates that fit all of them."""

    tie: Tie
    """Tie whose members are row indices."""
    options: Sequence[Option]
    num_elements: int
    """Number of elements; equal tensors count once."""
    is_pinned: bool = False
    """True where the recipe determines the setting."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Measured candidates of all decisions."""

    sweep: Sweep
    decisions: Sequence[Decision]
    objective: Objective

    @property
    def num_elements(self) -> int:
        """Elements of all decisions; equal tensors count once."""
        return sum(decision.num_elements for decision in self.decisions)

    @cached_property
    def unit(self) -> float:
        """One unit of an integer loss."""
        largest = fsum(max((option.loss for option in d.options), default=0.0) for d in self.decisions)
        return largest / (1 << LOSS_BITS) or 1.0

    def candidates(self) -> list[list[Candidate]]:
        """Return the decisions as input of the solver."""
        return [
            [Candidate(option.bits, round(option.loss / self.unit)) for option in decision.options]
            for decision in self.decisions
        ]

    def name_of(self, candidate: int) -> str:
        """Return the name of a candidate setting, or float."""
        settings = self.sweep.settings
        return settings[candidate].name if candidate < len(settings) else FLOAT

    def uniform(self, candidate: int) -> list[int] | None:
        """Return the choice of one candidate, but for pins and what only float fits; None where it fits not all."""
        choice = []
        for decision in self.decisions:
            found = [k for k, option in enumerate(decision.options) if option.candidate == candidate]
            if not found and not decision.is_pinned and decision.options[0].candidate < len(self.sweep.settings):
                return None
            choice.append(found[0] if found else 0)
        return choice


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Solution of a problem."""

    problem: Problem
    solution: Solution
    budget: int | None
    """Budget in bits; None where the loss was limited instead."""

    @property
    def chosen(self) -> Sequence[tuple[Decision, Option]]:
        """Each decision with its choice."""
        return [(d, d.options[k]) for d, k in zip(self.problem.decisions, self.solution.choice, strict=True)]

    @property
    def bits(self) -> int:
        """Stored bits of all decided tensors."""
        return sum(option.bits for _, option in self.chosen)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per element of the decided tensors."""
        return self.bits / max(self.problem.num_elements, 1)

    @property
    def loss(self) -> float:
        """The objective: a sum, or for `worst` the largest relative error."""
        losses = [option.loss for _, option in self.chosen]
        return max(losses, default=0.0) if self.problem.objective == "worst" else fsum(losses)

    @property
    def price(self) -> float | None:
        """Loss that one more bit saves at the optimum, the multiplier of the budget; None where the goal has none."""
        return None if self.solution.price is None else self.solution.price * self.problem.unit

    @cached_property
    def rows(self) -> list[Row]:
        """A row per tensor of the inputs: the measured one of its choice, or a skipped one."""
        rows = list(self.problem.sweep.results[0].rows)
        for decision, option in self.chosen:
            for member in decision.tie.members:
                rows[member] = self._row(member, option.candidate)
        return rows

    def _row(self, member: int, candidate: int) -> Row:
        if candidate < len(self.problem.sweep.results):
            return self.problem.sweep.results[candidate].rows[member]
        source = self.problem.sweep.results[0].rows[member].source
        return SkippedTensor(source=source, num_elements=prod(source.shape), reason=LEFT_IN_FLOAT)

    def sqnr_db(self, decision: Decision, option: Option) -> float:
        """Return the lowest SQNR of a decision's members; infinite where none changes."""
        if option.candidate >= len(self.problem.sweep.results):
            return inf
        rows = [self.problem.sweep.results[option.candidate].rows[member] for member in decision.tie.members]
        found = [METRICS["sqnr_db"].value(row.sums) for row in rows if isinstance(row, TensorResult)]
        return min((float(db) for db in found if db is not None), default=inf)


def selected_names(sweep: Sweep) -> list[str]:
    """Return the names of the tensors to plan: those that some candidate fits."""
    return [sweep.results[0].rows[number].source.name for number in _selected(sweep)]


def _selected(sweep: Sweep) -> list[int]:
    tables = (result.rows for result in sweep.results)
    return [n for n, rows in enumerate(zip(*tables, strict=True)) if any(isinstance(row, TensorResult) for row in rows)]


def misfits_of(plans: Sequence[Sequence[Plan]]) -> dict[int, Skip]:
    """Return the tensors whose shape forbids every candidate: row -> skip, with the reason."""
    tables = [[decision for plan in of_candidate for decision in plan.decisions] for of_candidate in plans]
    found = {}
    for number, cells in enumerate(zip(*tables, strict=True)):
        skips = [decision for decision in cells if isinstance(decision, Skip)]
        misfits = [skip for skip in skips if skip.is_misfit]
        if misfits and len(skips) == len(cells):
            found[number] = misfits[0]
    return found


def choice_of(problem: Problem, decisions: Sequence[Decided]) -> tuple[list[int], list[str]]:
    """Return the options that give every tensor the settings of a recipe, and the names of tensors without one.

    `decisions` are those of the recipe, one per tensor of the inputs.
    """
    results = problem.sweep.results
    choice, missing = [], []
    for decision in problem.decisions:
        wanted = [d if isinstance(d := decisions[member], QuantSpec) else None for member in decision.tie.members]
        found = [
            k
            for k, option in enumerate(decision.options)
            if wanted == [_spec_of(results, option.candidate, member) for member in decision.tie.members]
        ]
        choice.append(found[0] if found else 0)
        missing += [] if found else [decision.tie.name]
    return choice, missing


def _spec_of(results: Sequence[RunResult], candidate: int, member: int) -> QuantSpec | None:
    row = results[candidate].rows[member] if candidate < len(results) else None
    return row.spec if isinstance(row, TensorResult) else None


def make_problem(plans: Sequence[Sequence[Plan]], sweep: Sweep, wanted: Wanted) -> Problem:
    """Turn measured settings into decisions.

    `plans` and `sweep` are those of the candidate settings, in the same order.

    Raises:
        UsageError: a tensor has no candidate, or there is nothing to decide.
    """
    tables = [result.rows for result in sweep.results]
    selected = _selected(sweep)
    if not selected:
        raise UsageError("there is nothing to plan: no candidate setting fits any selected tensor")
    if wanted.keeps_float:
        selected += misfits_of(plans)
    selected.sort(key=lambda number: (tables[0][number].source.name, tables[0][number].source.file))
    names = [tables[0][number].source.name for number in selected]
    pinned = {n for n in selected if len(sweep.settings) > 1 and _is_pinned([rows[n] for rows in tables])}
    equal = duplicates_of(plans[0], [tables[0][number] for number in selected])
    numbers_held = {k for k, n in enumerate(selected) if n in pinned}
    held = {names[k] for k in numbers_held}
    groups = [group - held for group in wanted.groups]
    ties = make_ties(
        names,
        automatic=wanted.automatic_ties,
        groups={f"{min(group)} and {len(group) - 1} more": group.__contains__ for group in groups if len(group) > 1},
        apart=[held.__contains__, wanted.apart.__contains__],
        duplicates=[part for group in equal for part in _apart(group, numbers_held)],
    )
    copies = {number for numbers in equal for number in numbers[1:]}
    decisions = []
    for tie in ties:
        rows = replace(tie, members=tuple(selected[member] for member in tie.members))  # in the order of names
        once = [selected[member] for member in tie.members if member not in copies]
        decisions.append(_decision(rows, once, tables, sweep.settings, wanted, is_pinned=rows.members[0] in pinned))
    return Problem(sweep=sweep, decisions=decisions, objective=wanted.objective)


def _apart(group: Sequence[int], pinned: Container[int]) -> list[list[int]]:
    """Split a group into the pinned tensors and the others."""
    return [[k for k in group if (k in pinned) == is_pinned] for is_pinned in (True, False)]


def _is_pinned(rows: Sequence[Row]) -> bool:
    """Tell whether a tensor has the same setting in every candidate: a rule of the recipe decides it."""
    specs = {row.spec for row in rows if isinstance(row, TensorResult)}
    return len(specs) == 1 and all(isinstance(row, TensorResult) for row in rows)


def _decision(
    tie: Tie,
    once: Sequence[int],
    tables: Sequence[Sequence[Row]],
    settings: Sequence[Setting],
    wanted: Wanted,
    *,
    is_pinned: bool,
) -> Decision:
    names = [tables[0][member].source.name for member in tie.members]
    least, most = max(map(wanted.min_bits, tie.members, names)), min(map(wanted.max_bits, tie.members, names))
    options = []
    for candidate, rows in enumerate(tables[:1] if is_pinned else tables):
        measured = [row for row in (rows[member] for member in tie.members) if isinstance(row, TensorResult)]
        if len(measured) < len(tie.members) or not (is_pinned or least <= settings[candidate].num_bits <= most):
            continue
        losses = [
            wanted.importance(row.source.name) * _loss(row, wanted.objective, wanted.weighted.get((member, candidate)))
            for member, row in zip(tie.members, measured, strict=True)
        ]
        if not all(loss <= _LARGEST for loss in losses):  # NaN is not
            raise UsageError(
                f"{tie.name}: its squares leave the range of float64, so that no loss can be told; --exclude it, or "
                "scale it"
            )
        bits = sum(row.stored_bits or 0 for row in (rows[member] for member in once) if isinstance(row, TensorResult))
        loss = max(losses) if wanted.objective == "worst" else fsum(losses)
        options.append(Option(candidate=candidate, bits=bits, loss=loss))
    sources = [tables[0][member].source for member in once]
    widths = [DTYPES[tables[0][member].source.dtype].bits for member in tie.members]
    if wanted.keeps_float and not is_pinned and max(widths) <= most:
        bits = sum(DTYPES[source.dtype].bits * prod(source.shape) for source in sources)
        options.append(Option(candidate=len(settings), bits=bits, loss=0.0))
    if not options:
        raise UsageError(
            f"{tie.name}: no candidate is left: the shape, --min-bits and --max-bits forbid all; add one, or --exclude "
            "the tensor"
        )
    num_elements = sum(prod(source.shape) for source in sources)
    return Decision(tie=tie, options=options, num_elements=num_elements, is_pinned=is_pinned)


def _loss(row: TensorResult, objective: Objective, weighted: tuple[float, float] | None = None) -> float:
    error, energy = weighted or (value_of(row.sums.sq_error), value_of(row.sums.sq_input))
    if objective == "energy":
        return error
    return error / energy if energy else 0.0


def duplicates_of(plans: Sequence[Plan], rows: Sequence[Row]) -> list[list[int]]:
    """Return groups of row indices whose tensors have equal bytes. Only tensors with equal statistics are read."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if isinstance(row, TensorResult) and row.sums.num_elements:
            alike[row.source.dtype, row.source.shape, row.sums].append(number)
    wanted = {
        (rows[n].source.file, rows[n].source.name): n for group in alike.values() if len(group) > 1 for n in group
    }
    if not wanted:
        return []
    digests: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for plan in plans:
        mine = [(t, wanted[plan.file.path, t.name]) for t in plan.shard.tensors if (plan.file.path, t.name) in wanted]
        if mine:
            with plan.shard.open() as reader:
                for tensor, number in mine:
                    digest = blake2b()
                    for at in range(0, tensor.nbytes, _HASH_BYTES):
                        piece = bytearray(min(_HASH_BYTES, tensor.nbytes - at))
                        reader.read_into(tensor, at, memoryview(piece))
                        digest.update(piece)
                    digests[tensor.dtype.name, tensor.shape, digest.digest()].append(number)
    return sorted(sorted(numbers) for numbers in digests.values() if len(numbers) > 1)


def _floor_in_words(problem: Problem) -> str:
    """Return the decisions whose smallest candidates take most bits, with their settings."""
    cheapest = [(min(d.options, key=lambda option: option.bits), d) for d in problem.decisions if d.options]
    largest = sorted(cheapest, key=lambda pair: -pair[0].bits)[:_NAMES_SHOWN]
    return ", ".join(f"{_named(problem, d)} ({-(-option.bits // 8):,} bytes)" for option, d in largest)


def _named(problem: Problem, decision: Decision) -> str:
    first, *others = (escape_name(problem.sweep.results[0].rows[row].name) for row in decision.tie.members)
    return f"{first} and {len(others)} tied" if others else first


def allocate(problem: Problem, budget: int, starts: Sequence[Sequence[int]] = ()) -> Allocation:
    """Choose a candidate for each decision within a budget of bits; never worse than a uniform candidate that fits.

    Raises:
        UsageError: the budget is below the size of the smallest candidates.
    """
    uniform = (problem.uniform(candidate) for candidate in range(len(problem.sweep.settings) + 1))
    known = [*starts, *(choice for choice in uniform if choice is not None)]
    try:
        if problem.objective == "worst":
            solution = _least_worst(problem.candidates(), budget)
        else:
            solution = solve(problem.candidates(), budget, starts=known)
    except InfeasibleError as error:
        floor = error.floor / max(problem.num_elements, 1)
        raise UsageError(
            f"the floor of these candidates is {floor:.4f} bits per weight ({-(-error.floor // 8):,} bytes), most in "
            f"{_floor_in_words(problem)}; raise the budget, or allow smaller candidates"
        ) from None
    return Allocation(problem=problem, solution=solution, budget=budget)


def frontier(problem: Problem, count: int) -> list[Allocation]:
    """Solve `count` budgets, evenly spaced from the smallest size to the one beyond which nothing is gained."""
    table = problem.candidates()
    least = sum(min(c.cost for c in candidates) for candidates in table)
    most = sum(min(candidates, key=lambda c: (c.loss, c.cost)).cost for candidates in table)
    return [allocate(problem, least + (most - least) * step // (count - 1)) for step in range(count)]


def decision_of(allocation: Allocation, name: str) -> tuple[Decision, Option]:
    """Return the decision that a tensor belongs to, and its choice.

    Raises:
        UsageError: no planned tensor has that name; offers the nearest.
    """
    rows = allocation.problem.sweep.results[0].rows
    known = {rows[member].source.name: pair for pair in allocation.chosen for member in pair[0].tie.members}
    if name not in known:
        raise UsageError(f"--explain {escape_name(name)}: no planned tensor has that name{nearest_names(name, known)}")
    return known[name]


def allocate_for_loss(problem: Problem, max_loss: float) -> Allocation:
    """Choose the smallest size whose loss stays within `max_loss`.

    Raises:
        UsageError: not even the best candidates reach it.
    """
    if problem.objective == "worst":
        return _allocate_for_worst(problem, max_loss)
    table = problem.candidates()
    losses = [[option.loss for option in options] for options in table]
    try:
        found = _exchanged(table, losses, max_loss / problem.unit)
    except InfeasibleError as error:
        raise _loses_more(error.floor * problem.unit) from None
    price = 1 / found.price if found.price else None  # of a bit in units of loss, not of loss in bits
    return Allocation(problem=problem, solution=replace(found, price=price), budget=None)


def _exchanged(table: Sequence[Sequence[Candidate]], losses: Sequence[Sequence[int]], limit: float) -> Solution:
    """Return the smallest size whose sum of `losses`, one per option, stays within the limit; its price is per loss.

    Raises:
        InfeasibleError: no choice does.
    """
    exchanged = [
        [Candidate(loss, option.cost) for loss, option in zip(own, options, strict=True)]
        for own, options in zip(losses, table, strict=True)
    ]
    found = solve(exchanged, int(min(limit, MAX_LOSS)))
    loss = sum(options[k].loss for options, k in zip(table, found.choice, strict=True))
    return replace(found, cost=found.loss, loss=loss, lower_bound=loss)


def _loses_more(least: float) -> UsageError:
    return UsageError(f"the least loss of these candidates is {least:.6g}; allow larger candidates, or more loss")


def _allocate_for_worst(problem: Problem, max_loss: float) -> Allocation:
    """Choose the smallest candidate of each decision whose own loss stays within `max_loss`."""
    least = max(min(option.loss for option in decision.options) for decision in problem.decisions)
    if least > max_loss:
        raise _loses_more(least)
    fits = [[k for k, o in enumerate(decision.options) if o.loss <= max_loss] for decision in problem.decisions]
    return _smallest(problem, fits)


def _smallest(problem: Problem, fits: Sequence[Sequence[int]]) -> Allocation:
    """Return the smallest options among those that fit; ties go to the smaller loss."""
    table = problem.candidates()
    pairs = list(zip(table, fits, strict=True))
    choice = [min(own, key=lambda k: (options[k].cost, options[k].loss, k)) for options, own in pairs]
    chosen = [options[k] for options, k in zip(table, choice, strict=True)]
    cost, loss = sum(c.cost for c in chosen), sum(c.loss for c in chosen)
    solution = Solution(choice=tuple(choice), cost=cost, loss=loss, lower_bound=loss, proof="exact", price=None)
    return Allocation(problem=problem, solution=solution, budget=None)


def allocate_for_sqnr(problem: Problem, min_sqnr_db: float) -> Allocation:
    """Choose the smallest size at which every tensor has at least this SQNR.

    Raises:
        UsageError: a tensor does not reach it with any candidate.
    """
    limit = 10 ** (-max(min_sqnr_db, LOWEST_DB) / 10)
    found = []
    for decision in problem.decisions:
        fits = [k for k, option in enumerate(decision.options) if _worst_error(problem, decision, option) <= limit]
        if not fits:
            best = min(_worst_error(problem, decision, option) for option in decision.options)
            raise UsageError(
                f"{decision.tie.name}: reaches {-10 * log10(best):.2f} dB with its best candidate, less than "
                f"{min_sqnr_db:g} dB; allow larger candidates, or --exclude it"
            )
        found.append(fits)
    return _smallest(problem, found)


def allocate_for_summary(problem: Problem, min_sqnr_db: float) -> Allocation:
    """Choose the smallest size at which the SQNR over all quantized elements is at least this.

    Tensors that stay in float are no part of that SQNR, neither their energy nor their error of zero.

    Raises:
        UsageError: the best candidates do not reach it.
    """
    squares = [[_squares(problem, d, option) for option in d.options] for d in problem.decisions]
    energies = [max(energy for _, energy in own) for own in squares]
    largest = max(energies) or 1.0  # sums of what is divided by it stay finite
    relative = 10 ** (-max(min_sqnr_db, LOWEST_DB) / 10)
    scale = max(relative, 1.0) * largest
    # error <= relative * energy, summed over the quantized; the energy of those in float is added to both sides.
    charges = [
        [error / scale + min(relative, 1.0) * (most - energy) / largest for error, energy in own]
        for own, most in zip(squares, energies, strict=True)
    ]
    unit = fsum(map(max, charges)) / (1 << LOSS_BITS) or 1.0
    limit = min(relative, 1.0) * fsum(energy / largest for energy in energies)
    try:
        losses = [[ceil(charge / unit) for charge in own] for own in charges]
        found = _exchanged(problem.candidates(), losses, limit / unit)
    except InfeasibleError:
        error = fsum(min(error for error, energy in own) / largest for own in squares)
        best = 10 * log10(fsum(energy / largest for energy in energies) / error)
        raise UsageError(
            f"the best candidates reach {best:.2f} dB over all elements, less than {min_sqnr_db:g} dB; allow larger "
            "candidates"
        ) from None
    return Allocation(problem=problem, solution=replace(found, price=None), budget=None)


def _squares(problem: Problem, decision: Decision, option: Option) -> tuple[float, float]:
    """Return sum e^2 and sum x^2 of a decision's quantized members."""
    if option.candidate >= len(problem.sweep.results):
        return 0.0, 0.0
    rows = (problem.sweep.results[option.candidate].rows[member] for member in decision.tie.members)
    sums = [row.sums for row in rows if isinstance(row, TensorResult)]
    return fsum(value_of(own.sq_error) for own in sums), fsum(value_of(own.sq_input) for own in sums)


def _worst_error(problem: Problem, decision: Decision, option: Option) -> float:
    """Return the largest relative error of a decision's members, ignoring importance."""
    if option.candidate >= len(problem.sweep.results):
        return 0.0
    rows = (problem.sweep.results[option.candidate].rows[member] for member in decision.tie.members)
    return max(_loss(row, "relative") for row in rows if isinstance(row, TensorResult))


def _least_worst(decisions: Sequence[Sequence[Candidate]], budget: int) -> Solution:
    """Return the choice with the smallest maximum loss; ties go to the smaller size."""

    def at(limit: int) -> list[int] | None:
        choice = []
        for candidates in decisions:
            fits = [k for k, candidate in enumerate(candidates) if candidate.loss <= limit]
            if not fits:
                return None
            choice.append(min(fits, key=lambda k: (candidates[k].cost, candidates[k].loss, k)))
        total = sum(candidates[k].cost for candidates, k in zip(decisions, choice, strict=True))
        return choice if total <= budget else None

    limits = sorted({candidate.loss for candidates in decisions for candidate in candidates})
    first, last = 0, len(limits)
    while first < last:
        middle = (first + last) // 2
        if at(limits[middle]) is None:
            first = middle + 1
        else:
            last = middle
    choice = at(limits[first]) if first < len(limits) else None
    if choice is None:
        raise InfeasibleError(sum(min(c.cost for c in candidates) for candidates in decisions))
    chosen = [candidates[k] for candidates, k in zip(decisions, choice, strict=True)]
    loss = sum(c.loss for c in chosen)
    cost = sum(c.cost for c in chosen)
    return Solution(choice=tuple(choice), cost=cost, loss=loss, lower_bound=loss, proof="exact", price=None)
