"""Exact choice of one candidate per decision under a budget (multiple-choice knapsack), with a certified gap.

Minimises the sum of losses while the sum of costs stays within the budget. Losses and costs are integers, so no order
of addition can change an answer. Ties go to the smaller cost, then to the lexicographically smallest vector of
candidate indices, in the order of the decisions.

Method: drop dominated candidates; relax the budget by a Lagrange multiplier, which gives a lower bound and a first
solution; fill what the first solution left of the budget; drop candidates whose reduced loss exceeds the gap
(reduced-cost fixing); solve what is left by a dynamic program over non-dominated (cost, loss) sums, pruned by the same
bound. The program is limited by a number of states, never by a clock: beyond it, the best known solution comes with the
gap that the bound certifies.

Source: Kellerer, Pferschy, Pisinger, Knapsack Problems (2004), chapter 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MAX_STATES = 4_000_000
"""Maximum number of sums kept by the dynamic program, 16 bytes each."""

_SLACK = 1e-9
"""Relative margin of bounds computed in float64: they never prune an optimum."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate of a decision."""

    cost: int
    """Never negative."""
    loss: int
    """Never negative; sums over all decisions stay below 2^62."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """One candidate per decision, and a bound on the distance from the optimum."""

    choice: tuple[int, ...]
    """Index of the chosen candidate, per decision."""
    cost: int
    loss: int
    lower_bound: int
    """Lower bound of the loss of any choice within the budget."""
    proof: Literal["exact", "bound"]
    """`exact`: this is the optimum, ties settled; `bound`: the loss exceeds the optimum by at most `gap`."""
    price: float | None
    """Loss that one unit of cost saves at the margin of the budget: its Lagrange multiplier, 0 where the budget allows
    every gain; None where no such problem was solved."""
    gap: float = 0.0
    """Upper bound of (loss - optimum) / loss."""


class InfeasibleError(Exception):
    """The cheapest choice exceeds the budget."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"the cheapest choice costs {floor}")
        self.floor = floor
        """Cost of the cheapest choice."""


def solve(
    decisions: Sequence[Sequence[Candidate]],
    budget: int,
    *,
    starts: Sequence[Sequence[int]] = (),
    max_states: int = MAX_STATES,
) -> Solution:
    """Choose a candidate for each decision.

    Args:
        decisions: candidates of each decision, at least one.
        budget: largest sum of costs that is allowed.
        starts: known choices; the answer is never worse than one of them that fits.
        max_states: limit of the dynamic program.

    Raises:
        InfeasibleError: the cheapest choice exceeds the budget.
    """
    groups = [_undominated(candidates) for candidates in decisions]
    floor = sum(group[0].cost for group in groups)
    if floor > budget:
        raise InfeasibleError(floor)
    multiplier, first = _relax(groups, budget)
    lower_bound = _lower_bound(groups, multiplier, budget)
    known = [_fill(groups, first, budget), *(_translate(groups, decisions, start) for start in starts)]
    fitting = [positions for positions in known if _totals(groups, positions)[0] <= budget]
    best = min(fitting, key=lambda positions: (*reversed(_totals(groups, positions)), _indices(groups, positions)))
    incumbent = _totals(groups, best)[1]
    found = _search(groups, budget, multiplier, incumbent, max_states)
    positions = best if found is None else found
    cost, loss = _totals(groups, positions)
    bound = min(lower_bound, loss) if found is None else loss
    return Solution(
        choice=_indices(groups, positions),
        cost=cost,
        loss=loss,
        lower_bound=bound,
        gap=(loss - bound) / max(loss, 1),
        proof="bound" if found is None else "exact",
        price=float(multiplier),
    )


@dataclass(frozen=True, slots=True)
class _Option:
    """A candidate that no other of its decision dominates."""

    index: int
    """Index among all candidates of the decision."""
    cost: int
    loss: int


_Group = Sequence[_Option]
"""Options by ascending cost and descending loss."""


@dataclass(frozen=True, slots=True)
class _Multiplier:
    """Price of one unit of cost in units of loss, as a fraction."""

    loss: int
    cost: int

    def __float__(self) -> float:
        return self.loss / self.cost


def _undominated(candidates: Sequence[Candidate]) -> list[_Option]:
    """Return the options of a decision; of equal candidates the first."""
    kept: list[_Option] = []
    for index, found in sorted(enumerate(candidates), key=lambda pair: (pair[1].cost, pair[1].loss, pair[0])):
        if not kept or found.loss < kept[-1].loss:
            kept.append(_Option(index, found.cost, found.loss))
    return kept


def _hull(group: _Group) -> list[int]:
    """Return positions of the options on the lower convex hull of (cost, loss)."""
    hull: list[int] = []
    for position, option in enumerate(group):
        while len(hull) > 1:
            before, last = group[hull[-2]], group[hull[-1]]
            steeper = (before.loss - last.loss) * (option.cost - last.cost)
            if steeper > (last.loss - option.loss) * (last.cost - before.cost):
                break
            hull.pop()
        hull.append(position)
    return hull


def _relax(groups: Sequence[_Group], budget: int) -> tuple[_Multiplier, list[int]]:
    """Solve the fractional relaxation: returns the multiplier, and the choice rounded down."""
    steps: list[tuple[float, int, int, int]] = []
    for number, group in enumerate(groups):
        for before, after in pairwise(_hull(group)):
            gain, price = group[before].loss - group[after].loss, group[after].cost - group[before].cost
            steps.append((-gain / price, number, before, after))
    steps.sort()
    positions = [0] * len(groups)
    left = budget - sum(group[0].cost for group in groups)
    for _, number, before, after in steps:
        group = groups[number]
        price = group[after].cost - group[before].cost
        if price > left:
            return _Multiplier(group[before].loss - group[after].loss, price), positions
        left -= price
        positions[number] = after
    return _Multiplier(0, 1), positions


def _lower_bound(groups: Sequence[_Group], multiplier: _Multiplier, budget: int) -> int:
    """Return a lower bound of the loss of any choice within the budget, by Lagrangian relaxation; exact arithmetic."""
    total = sum(min(o.loss * multiplier.cost + o.cost * multiplier.loss for o in group) for group in groups)
    return max(-(-(total - multiplier.loss * budget) // multiplier.cost), 0)


def _fill(groups: Sequence[_Group], positions: list[int], budget: int) -> list[int]:
    """Spend the rest of the budget on the steps with the largest gain per cost."""
    positions = list(positions)
    left = budget - _totals(groups, positions)[0]
    while True:
        steps = []
        for number, group in enumerate(groups):
            now = group[positions[number]]
            for position in range(positions[number] + 1, len(group)):
                price = group[position].cost - now.cost
                if price > left:
                    break
                steps.append(((group[position].loss - now.loss) / price, number, position, price))
        if not steps:
            return positions
        moved: set[int] = set()
        for _, number, position, price in sorted(steps):
            if price <= left and number not in moved:
                positions[number] = position
                left -= price
                moved.add(number)


def _search(
    groups: Sequence[_Group], budget: int, multiplier: _Multiplier, incumbent: int, max_states: int
) -> list[int] | None:
    """Find the optimum by dynamic programming; None where it would take more than `max_states` states.

    The stages run from the last decision to the first, so that a walk forward through the stored sums can take the
    smallest index at each decision.
    """
    price = float(multiplier)
    reduced = [[o.loss + price * o.cost for o in group] for group in groups]
    least = [min(values) for values in reduced]
    slack = incumbent - (sum(least) - price * budget) + _SLACK * (incumbent + price * budget + sum(least)) + 1
    kept = [
        [position for position, value in enumerate(values) if value - lowest <= slack]
        for values, lowest in zip(reduced, least, strict=True)
    ]
    chosen = [positions[0] for positions in kept]
    core = [number for number, positions in enumerate(kept) if len(positions) > 1]
    left = budget - sum(groups[number][kept[number][0]].cost for number in range(len(groups)) if len(kept[number]) == 1)
    cheapest = np.cumsum([0, *(groups[number][kept[number][0]].cost for number in core)], dtype=np.int64)
    stages = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
    num_states, suffix_least = 0, 0.0
    for index in range(len(core) - 1, -1, -1):
        options = [groups[core[index]][position] for position in kept[core[index]]]
        suffix_least += least[core[index]]
        costs = np.concatenate([stages[-1][0] + option.cost for option in options])
        losses = np.concatenate([stages[-1][1] + option.loss for option in options])
        useful = (costs <= left - cheapest[index]) & (losses + price * costs - suffix_least <= slack)
        stages.append(_pareto(costs[useful], losses[useful]))
        num_states += len(stages[-1][0])
        if num_states > max_states:
            return None
    stages.reverse()
    cost, loss = int(stages[0][0][-1]), int(stages[0][1][-1])
    for index, number in enumerate(core):
        for position in sorted(kept[number], key=lambda position: groups[number][position].index):
            option = groups[number][position]
            if _has(stages[index + 1], cost - option.cost, loss - option.loss):
                chosen[number] = position
                cost, loss = cost - option.cost, loss - option.loss
                break
    return chosen


def _pareto(costs: NDArray[np.int64], losses: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the non-dominated sums by ascending cost and descending loss."""
    order = np.lexsort((losses, costs))
    costs, losses = costs[order], losses[order]
    lowest = np.minimum.accumulate(losses)
    kept = np.concatenate([[True], losses[1:] < lowest[:-1]])
    return costs[kept], losses[kept]


def _has(stage: tuple[NDArray[np.int64], NDArray[np.int64]], cost: int, loss: int) -> bool:
    costs, losses = stage
    index = int(np.searchsorted(costs, cost))
    return index < len(costs) and int(costs[index]) == cost and int(losses[index]) == loss


def _translate(groups: Sequence[_Group], decisions: Sequence[Sequence[Candidate]], choice: Sequence[int]) -> list[int]:
    """Return a known choice as positions of options, each at least as good as the chosen candidate."""
    return [
        max(position for position, option in enumerate(group) if option.cost <= candidates[index].cost)
        for group, candidates, index in zip(groups, decisions, choice, strict=True)
    ]


def _totals(groups: Sequence[_Group], positions: Sequence[int]) -> tuple[int, int]:
    """Return (cost, loss) of a choice."""
    chosen = [group[position] for group, position in zip(groups, positions, strict=True)]
    return sum(option.cost for option in chosen), sum(option.loss for option in chosen)


def _indices(groups: Sequence[_Group], positions: Sequence[int]) -> tuple[int, ...]:
    return tuple(group[position].index for group, position in zip(groups, positions, strict=True))
