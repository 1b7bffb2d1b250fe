"""Metrics against numbers worked out by hand and against plain NumPy."""

from math import inf, log10, nan, sqrt

import numpy as np
import pytest

from qdqcli.stats.metrics import METRICS, Better, Metric, MetricValue, is_exact
from qdqcli.stats.sums import ErrorSums
from tests.stats.samples import measured

COUNTS = ("num_elements", "num_nonfinite", "num_nonfinite_output", "num_degenerate")


def values(x: list[float], y: list[float], **more: int) -> dict[str, MetricValue]:
    sums = measured(x, y, **more)
    return {name: metric.value(sums) for name, metric in METRICS.items()}


def test_every_metric_of_the_contract_is_there_in_its_order() -> None:
    assert list(METRICS) == [
        *COUNTS,
        *("input_min", "input_max", "max_abs_error", "mean_error", "mean_abs_error", "mse", "rmse"),
        *("relative_l2", "sqnr_db", "cosine_similarity", "clipped_fraction", "zeroed_fraction"),
    ]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_metric_says_what_it_is(metric: Metric) -> None:
    assert METRICS[metric.name] is metric
    assert metric.title
    assert metric.formula
    assert metric.unit or metric.name == "cosine_similarity"
    assert isinstance(metric.better, Better)


def test_by_hand() -> None:
    # x = 3, -4, 1, 0; y = 3, -2, 0, 0: e = 0, 2, -1, 0
    got = values([3.0, -4.0, 1.0, 0.0], [3.0, -2.0, 0.0, 0.0], num_clipped=1)
    assert got == pytest.approx(
        {
            "num_elements": 4,
            "num_nonfinite": 0,
            "num_nonfinite_output": 0,
            "num_degenerate": 0,
            "input_min": -4.0,
            "input_max": 3.0,
            "max_abs_error": 2.0,
            "mean_error": 0.25,
            "mean_abs_error": 0.75,
            "mse": 1.25,
            "rmse": sqrt(1.25),
            "relative_l2": sqrt(5 / 26),
            "sqnr_db": 10 * log10(26 / 5),
            "cosine_similarity": 17 / sqrt(26 * 13),
            "clipped_fraction": 0.25,
            "zeroed_fraction": 0.25,
        },
        rel=1e-15,
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_against_numpy(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(1000) * scale
    y = np.round(x / scale * 7) / 7 * scale
    e = y - x
    got = values(x.tolist(), y.tolist())
    expected = {
        "input_min": x.min(),
        "input_max": x.max(),
        "max_abs_error": abs(e).max(),
        "mean_error": e.mean(),
        "mean_abs_error": abs(e).mean(),
        "mse": (e * e).mean(),
        "rmse": np.sqrt((e * e).mean()),
        "relative_l2": np.linalg.norm(e) / np.linalg.norm(x),
        "sqnr_db": 10 * np.log10((x * x).sum() / (e * e).sum()),
        "cosine_similarity": x @ y / (np.linalg.norm(x) * np.linalg.norm(y)),
        "zeroed_fraction": ((x != 0) & (y == 0)).mean(),
    }
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-11, abs=scale * 1e-15 if name == "mean_error" else None), name


def test_an_exact_result_has_no_sqnr_and_no_error() -> None:
    got = values([1.0, -2.0], [1.0, -2.0])
    assert is_exact(measured([1.0, -2.0], [1.0, -2.0]))
    assert got["sqnr_db"] is None
    assert (got["relative_l2"], got["rmse"]) == (0.0, 0.0)


def test_zeros_that_stay_zeros_are_exact() -> None:
    got = values([0.0, -0.0], [0.0, 0.0])
    assert is_exact(measured([0.0], [0.0]))
    assert (got["relative_l2"], got["cosine_similarity"], got["zeroed_fraction"], got["sqnr_db"]) == (
        0.0,
        1.0,
        0.0,
        None,
    )


@pytest.mark.parametrize(("x", "y"), [([], []), ([nan, inf], [nan, nan]), ([1.0], [inf])], ids=["empty", "x", "y"])
def test_where_nothing_was_measured_there_are_counts_only(x: list[float], y: list[float]) -> None:
    got = values(x, y)
    assert not is_exact(measured(x, y))
    assert all(got[name] is not None for name in COUNTS)
    assert {name for name, value in got.items() if value is not None} == set(COUNTS)


def test_nonfinite_elements_are_counted_apart_and_left_out() -> None:
    got = values([1.0, nan, -inf, 2.0, 3.0], [1.5, nan, 0.0, inf, 3.0])
    assert (got["num_elements"], got["num_nonfinite"], got["num_nonfinite_output"]) == (5, 2, 1)
    assert (got["input_min"], got["input_max"], got["mean_error"]) == (1.0, 3.0, 0.25)


def test_noise_without_signal_has_no_ratio() -> None:
    got = values([0.0, 0.0], [0.5, 0.0])
    assert got["sqnr_db"] is None
    assert got["relative_l2"] is None
    assert got["cosine_similarity"] == 0.0
    assert got["max_abs_error"] == 0.5


def test_an_output_of_zeros_loses_all_of_the_signal() -> None:
    got = values([1.0, -2.0, 0.1], [0.0, 0.0, 0.0])
    assert got["cosine_similarity"] == 0.0
    assert got["sqnr_db"] == 0.0
    assert got["relative_l2"] == 1.0
    assert got["zeroed_fraction"] == 1.0


@pytest.mark.parametrize("factor", [1.0, -1.0, 2.0])
def test_parallel_vectors_have_cosine_one_exactly(factor: float) -> None:
    x = [1.0, 2.0]
    assert values(x, [factor * value for value in x])["cosine_similarity"] == (1.0 if factor > 0 else -1.0)


def test_squares_beyond_float64_have_no_number_but_extremes_do() -> None:
    got = values([1e200, 2e200], [1e200, 3e200])
    assert got["mse"] is None
    assert got["sqnr_db"] is None
    assert got["max_abs_error"] == pytest.approx(1e200)


def test_fractions_are_of_the_measured_elements() -> None:
    assert values([1.0, nan, 3.0], [0.0, nan, 3.0], num_clipped=1)["clipped_fraction"] == 0.5


def test_metrics_of_empty_sums_never_raise() -> None:
    assert [metric.value(ErrorSums()) for metric in METRICS.values()].count(None) == len(METRICS) - len(COUNTS)
