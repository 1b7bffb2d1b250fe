"""Worst first, by every metric."""

import pytest

from qdqcli.errors import UsageError
from qdqcli.report.ranking import SORTS, ranked
from qdqcli.result.result import STATS, TensorResult
from qdqcli.stats.metrics import METRICS
from tests.report.samples import BAD, EMPTY, EVERY_KIND, EXACT, GOOD, UNMEASURED, quantized, run_of


def names(rows: list[TensorResult]) -> list[str]:
    return [row.source.name.removeprefix("model.").removesuffix(".weight") for row in rows]


def test_by_sqnr_the_unmeasured_come_first_and_the_exact_and_empty_last() -> None:
    assert names(ranked(EVERY_KIND)) == ["nan", "degenerate", "bad", "inf", "good", "empty", "exact"]


@pytest.mark.parametrize("sort", ["rmse", "max_abs_error", "relative_l2", "cosine_similarity"])
def test_the_better_end_comes_last(sort: str) -> None:
    assert names(ranked(run_of(EXACT, GOOD, BAD, EMPTY, UNMEASURED), sort)) == ["nan", "bad", "good", "exact", "empty"]


def test_without_a_better_end_the_largest_magnitude_comes_first() -> None:
    low, high, zero = (quantized(str(error), [1.0], [1.0 + error]) for error in (-0.5, 0.25, 0.0))
    assert [row.source.name for row in ranked(run_of(zero, high, low), "mean_error")] == ["-0.5", "0.25", "0.0"]


def test_by_name_ignores_the_figures() -> None:
    assert names(ranked(EVERY_KIND, "name")) == ["bad", "degenerate", "empty", "exact", "good", "inf", "nan"]


@pytest.mark.parametrize("sort", SORTS)
def test_ties_go_by_name_then_by_file(sort: str) -> None:
    rows = [
        GOOD._replace(source=GOOD.source._replace(name=name, file=file)) for name in ("b", "a") for file in ("2", "1")
    ]
    got = [(row.source.name, row.source.file) for row in ranked(run_of(*rows), sort)]
    assert got == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_is_one_of_all_quantized_rows(sort: str) -> None:
    rows = ranked(EVERY_KIND, sort)
    assert sorted(names(rows)) == names(ranked(EVERY_KIND, "name"))


def test_all_metrics_name_and_size_can_be_sorted_by() -> None:
    assert set(SORTS) == {*METRICS, *STATS, "share", "name", "size"}


@pytest.mark.parametrize(("top", "count"), [(None, 7), (0, 7), (2, 2), (99, 7)])
def test_top_keeps_the_worst(top: int | None, count: int) -> None:
    assert ranked(EVERY_KIND, top=top) == ranked(EVERY_KIND)[:count]


def test_an_unknown_order_gets_the_nearest_or_all() -> None:
    with pytest.raises(UsageError, match="'rms'; try rmse"):
        ranked(EVERY_KIND, "rms")
    with pytest.raises(UsageError, match=r"'quux'; try num_elements, .*, name, size$"):
        ranked(EVERY_KIND, "quux")
