"""Sums that merge to the same bits, whatever the order and the grouping."""

from fractions import Fraction
from math import fsum, inf, isnan, nan
from random import Random
from sys import float_info

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdqcli.stats.sums import ErrorSums, Expansion, expansion, value_of
from tests.stats.samples import measured

HUGE = float_info.max
TINY = 5e-324
FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([HUGE, -HUGE, TINY, -TINY, 1e16, 1.0, -1.0])
MANY = st.lists(FINITE, max_size=30)


def merged(left: Expansion, right: Expansion) -> Expansion:
    return ErrorSums(error=left).merge(ErrorSums(error=right)).error


def in_groups(values: list[float], random: Random) -> Expansion:
    """Merged pairwise in a random tree over a random order."""
    parts = [expansion([value]) for value in values]
    while len(parts) > 1:
        left, right = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(merged(left, right))
    return parts[0] if parts else ()


@given(MANY, st.randoms(use_true_random=False))
def test_merging_in_any_order_and_grouping_gives_the_same_bits(values: list[float], random: Random) -> None:
    assert in_groups(values, random) == expansion(values)


@given(MANY)
def test_an_expansion_is_the_exact_sum(values: list[float]) -> None:
    assert sum(map(Fraction, expansion(values)), Fraction()) == sum(map(Fraction, values), Fraction())


@given(MANY)
def test_an_expansion_falls_and_holds_no_zero(values: list[float]) -> None:
    parts = [abs(part) for part in expansion(values)]
    assert 0.0 not in parts
    assert parts == sorted(parts, reverse=True)


@given(st.lists(st.floats(-1e100, 1e100), max_size=30))
def test_the_value_is_the_sum_rounded_once(values: list[float]) -> None:
    assert value_of(expansion(values)) == fsum(values)


def test_a_sum_beyond_float64_is_infinite_until_something_takes_it_back() -> None:
    twice = expansion([HUGE, HUGE])
    assert value_of(twice) == inf
    assert value_of(merged(twice, expansion([-HUGE]))) == HUGE
    assert value_of(expansion([-HUGE, -HUGE])) == -inf


def test_a_partial_sum_beyond_float64_does_not_matter() -> None:
    assert value_of(expansion([HUGE, HUGE, -HUGE, -HUGE, 1.0])) == 1.0


def test_cancellation_leaves_the_small_term() -> None:
    assert expansion([1e16, 1.0, -1e16]) == (1.0,)
    assert expansion([1.0, -1.0]) == ()


@pytest.mark.parametrize("values", [[], [0.0], [-0.0], [0.0, -0.0]])
def test_nothing_and_zeros_have_no_terms(values: list[float]) -> None:
    assert expansion(values) == ()
    assert value_of(()) == 0.0


@pytest.mark.parametrize(
    ("values", "expected"), [([inf], inf), ([1.0, inf], inf), ([-inf, HUGE, HUGE], -inf), ([inf, inf], inf)]
)
def test_an_infinity_stays(values: list[float], expected: float) -> None:
    assert value_of(expansion(values)) == expected
    assert merged(expansion(values), expansion([1.0])) == (expected,)


def test_nan_and_opposed_infinities_are_nan() -> None:
    assert isnan(value_of(expansion([inf, -inf])))
    assert isnan(value_of(expansion([nan, 1.0])))
    assert isnan(value_of(merged((inf,), (-inf,))))


def sums(x: list[float]) -> ErrorSums:
    """With an error that differs from element to element."""
    return measured(x, [float(round(value)) if abs(value) < 1e15 else 0.0 for value in x])


SMALL = st.lists(st.floats(-1e150, 1e150).filter(bool) | st.sampled_from([nan, inf, -inf]), max_size=8)


@given(SMALL, SMALL, SMALL)
def test_merge_is_associative_and_commutative_in_every_field(a: list[float], b: list[float], c: list[float]) -> None:
    left = sums(a).merge(sums(b)).merge(sums(c))
    right = sums(c).merge(sums(b).merge(sums(a)))
    assert repr(left) == repr(right) == repr(ErrorSums.total([sums(b), sums(c), sums(a)]))


@given(SMALL, SMALL)
def test_merged_sums_are_those_of_all_elements_at_once(a: list[float], b: list[float]) -> None:
    assert sums(a).merge(sums(b)) == sums(a + b)


@given(SMALL)
def test_the_sums_of_nothing_change_nothing(x: list[float]) -> None:
    assert sums(x).merge(ErrorSums()) == sums(x) == ErrorSums().merge(sums(x))


def test_zeros_of_both_signs_give_the_same_bits_in_any_order() -> None:
    minus, plus = (ErrorSums(num_elements=1, input_min=zero, input_max=zero) for zero in (-0.0, 0.0))
    assert repr(minus.merge(plus)) == repr(plus.merge(minus))


def test_every_field_is_merged() -> None:
    defaults = ErrorSums._field_defaults
    ones = ErrorSums(**{name: (1.0,) if isinstance(default, tuple) else 1 for name, default in defaults.items()})
    twice = ones.merge(ones)
    for name, default in defaults.items():
        expected: object = 2
        if isinstance(default, tuple):
            expected = (2.0,)
        elif name in ("input_min", "input_max", "max_abs_error"):
            expected = 1
        assert getattr(twice, name) == expected, name


def test_measured_elements_are_finite_before_and_after() -> None:
    assert measured([1.0, nan, inf, 2.0], [1.0, nan, 1.0, inf]).num_measured == 1
