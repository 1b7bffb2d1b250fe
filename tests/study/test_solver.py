"""The planner's solver against brute force, against other solvers, and by its laws."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from qdqcli.study.solver import Candidate, InfeasibleError, Solution, solve

Decisions = Sequence[Sequence[Candidate]]


def random_decisions(random: np.random.Generator) -> Decisions:
    """Up to 7 decisions of up to 6 candidates; costs with and without a common divisor, losses that repeat or not."""
    unit = int(random.choice([1, 7, 128]))
    most_cost, most_loss = (int(random.choice(values)) for values in ((4, 30, 10_000), (3, 100, 1 << 40)))
    return [
        [
            Candidate(unit * int(random.integers(0, most_cost + 1)), int(random.integers(0, most_loss + 1)))
            for _ in range(random.integers(1, 7))
        ]
        for _ in range(random.integers(1, 8))
    ]


def totals(decisions: Decisions, choice: Sequence[int]) -> tuple[int, int]:
    chosen = [candidates[index] for candidates, index in zip(decisions, choice, strict=True)]
    return sum(c.cost for c in chosen), sum(c.loss for c in chosen)


def brute_force(decisions: Decisions, budget: int) -> tuple[int, ...] | None:
    """The best choice by its rule: least loss, then least cost, then the smallest vector of indices."""
    fitting = (
        (loss, cost, choice)
        for choice in product(*(range(len(candidates)) for candidates in decisions))
        for cost, loss in [totals(decisions, choice)]
        if cost <= budget
    )
    return min(fitting, default=(0, 0, None))[2]


def bounds(decisions: Decisions) -> tuple[int, int]:
    return (
        sum(min(c.cost for c in candidates) for candidates in decisions),
        sum(max(c.cost for c in candidates) for candidates in decisions),
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_is_that_of_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    for number in range(100):
        decisions = random_decisions(random)
        if np.prod([len(candidates) for candidates in decisions]) > 20_000:
            decisions = decisions[:5]
        least, most = bounds(decisions)
        budget = int(random.integers(least, most + 1))
        found = solve(decisions, budget)
        assert found.choice == brute_force(decisions, budget), f"seed {seed}, instance {number}"
        assert found.proof == "exact"
        assert found.lower_bound == found.loss
        assert (found.cost, found.loss) == totals(decisions, found.choice)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_a_search_that_was_cut_short_holds(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(40):
        decisions = random_decisions(random)[:5]
        budget = int(random.integers(*bounds(decisions), endpoint=True))
        found = solve(decisions, budget, max_states=0)
        best = brute_force(decisions, budget)
        assert best is not None
        assert found.lower_bound <= totals(decisions, best)[1] <= found.loss
        assert found.cost <= budget
        assert found.loss - totals(decisions, best)[1] <= found.gap * max(found.loss, 1) + 1e-9


def curves(count: int, seed: int, sizes: Sequence[int]) -> Decisions:
    """Tensors as they are: 2, 3, 4, 5, 6, 8 bits and a scale per 128, about 6 dB less loss per bit."""
    random = np.random.default_rng(seed)
    decisions = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        scale = float(random.lognormal(0, 1)) * (1 << 40)
        jitter = random.uniform(0.9, 1.1, 6)
        decisions.append(
            [
                Candidate(size * bits + size // 128 * 16, int(scale * j * 4.0**-bits))
                for bits, j in zip((2, 3, 4, 5, 6, 8), jitter, strict=True)
            ]
        )
    return decisions


def test_rising_budgets_never_raise_the_loss_and_are_never_exceeded() -> None:
    decisions = curves(30, 1, [4096 * 4096, 4096 * 1024, 4096 * 14336])
    least, most = bounds(decisions)
    losses = []
    for budget in np.linspace(least, most, 100).astype(np.int64).tolist():
        found = solve(decisions, budget)
        assert found.cost <= budget
        losses.append(found.loss)
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) > 50


def greedy(decisions: Decisions, budget: int) -> Sequence[int]:
    """One step at a time, the one that gains most for its cost."""
    choice = [0] * len(decisions)
    while True:
        left = budget - totals(decisions, choice)[0]
        steps = [
            ((now.loss - c.loss) / (c.cost - now.cost), number, index)
            for number, candidates in enumerate(decisions)
            for now in [candidates[choice[number]]]
            for index, c in enumerate(candidates)
            if 0 < c.cost - now.cost <= left and c.loss < now.loss
        ]
        if not steps:
            return choice
        _, number, index = max(steps)
        choice[number] = index


def by_threshold(decisions: Decisions, budget: int) -> Sequence[int]:
    """Two levels, the upper one for the decisions with most loss."""
    order = sorted(range(len(decisions)), key=lambda n: -decisions[n][2].loss)
    choice = [2] * len(decisions)
    for number in order:
        choice[number] = 4
        if totals(decisions, choice)[0] > budget:
            choice[number] = 2
            break
    return choice


def by_multiplier(decisions: Decisions, budget: int) -> Sequence[int]:
    """Bisection of one price for all decisions."""
    low, high = 0.0, 1e12
    choice: Sequence[int] = [0] * len(decisions)
    for _ in range(200):
        price = (low + high) / 2
        tried = [min(range(len(c)), key=lambda i, c=c: c[i].loss + price * c[i].cost) for c in decisions]  # type: ignore[misc]
        if totals(decisions, tried)[0] <= budget:
            choice, high = tried, price
        else:
            low = price
    return choice


@pytest.mark.parametrize("seed", range(4))
def test_it_is_never_worse_than_a_uniform_setting_or_another_solver(seed: int) -> None:
    decisions = curves(28, seed, [384 * 384, 384 * 1536, 30522 * 384])
    for index in range(6):
        uniform = [index] * len(decisions)
        cost, loss = totals(decisions, uniform)
        assert solve(decisions, cost).loss <= loss
        for rival in (greedy, by_threshold, by_multiplier):
            choice = rival(decisions, cost)
            if totals(decisions, choice)[0] <= cost:
                assert solve(decisions, cost).loss <= totals(decisions, choice)[1], rival.__name__


def test_a_known_choice_is_a_start_even_where_the_search_is_cut_short() -> None:
    decisions = [[Candidate(0, 10), Candidate(3, 5), Candidate(4, 0)], [Candidate(0, 10), Candidate(3, 1)]]
    assert solve(decisions, 6, max_states=0, starts=[[1, 1]]).loss <= 6


def test_what_cannot_be_met_says_what_the_least_costs() -> None:
    with pytest.raises(InfeasibleError) as found:
        solve([[Candidate(5, 1), Candidate(3, 9)], [Candidate(4, 0)]], 6)
    assert found.value.floor == 7


def test_nothing_to_decide_is_a_plan() -> None:
    assert solve([], 0) == Solution(choice=(), cost=0, loss=0, lower_bound=0, proof="exact", price=0.0)


def test_equal_plans_are_settled_by_cost_and_then_by_the_order_of_candidates() -> None:
    same = [Candidate(2, 1), Candidate(1, 1), Candidate(1, 1)]
    assert solve([same, same], 4).choice == (1, 1)
    either = [Candidate(1, 3), Candidate(0, 5)]
    assert solve([either, either], 1).choice == (0, 1)


def test_shapes_of_a_large_model_are_solved_exactly() -> None:
    sizes = [4096 * 4096, 1024 * 4096, 4096 * 14336, 4096 * 4096]
    decisions = curves(128, 3, sizes)
    average = bounds(decisions)[0] * 2
    found = solve(decisions, average)
    assert found.proof == "exact"


@pytest.fixture
def many() -> Decisions:
    random = np.random.default_rng(5)
    return curves(20_000, 7, [int(size) * 128 for size in random.integers(100, 100_000, 997)])


def test_tens_of_thousands_of_odd_sizes_are_solved_within_a_thousandth(many: Decisions) -> None:
    found = solve(many, bounds(many)[0] * 2)
    assert found.gap <= 0.001
