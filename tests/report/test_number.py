"""Numbers as a reader wants them."""

import pytest

from qdqcli.report.number import counted, metric_text, metric_title, metric_unit, percent, significant
from qdqcli.result.result import ROW_STATS


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0"),
        (1e-9, "<0.01%"),
        (0.0001, "0.01%"),
        (0.0412, "4.12%"),
        (0.5, "50.00%"),
        (0.99999, ">99.99%"),
        (1.0, "100%"),
    ],
)
def test_a_percentage_is_zero_or_all_only_where_it_is(fraction: float, text: str) -> None:
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.1, "0.100"), (0.0012345, "0.00123"), (1.2e-5, "1.20e-05"), (123.4, "123"), (-2.5, "-2.50")],
)
def test_three_digits_are_kept(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("sqnr_db", 31.4159, "31.42"),
        ("sqnr_db", -3.0, "-3.00"),
        ("cosine_similarity", 0.9999912, "0.999991"),
        ("bits_per_weight", 4.125, "4.125"),
        ("num_elements", 1234567, "1,234,567"),
        ("relative_l2", 1e-6, "1.00e-06"),
        ("rmse", None, "-"),
    ],
)
def test_each_metric_has_its_digits(name: str, value: float | None, text: str) -> None:
    assert metric_text(name, value) == text


@pytest.mark.parametrize("name", ROW_STATS)
def test_every_statistic_has_a_title_and_decibels_a_unit(name: str) -> None:
    assert metric_title(name)
    assert metric_unit(name) == (" dB" if name.endswith("_db") else "")


def test_one_is_not_plural() -> None:
    assert [counted(number, "tensor") for number in (0, 1, 2000)] == ["0 tensors", "1 tensor", "2,000 tensors"]
