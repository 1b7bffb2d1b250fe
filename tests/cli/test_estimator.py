"""`--estimator`: ranges by percentile or by search, for every command that measures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdqcli.measure.workers import Workers
from qdqcli.op.histogram import HISTOGRAM_ELEMENTS
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.result.result import TensorResult
from qdqcli.run.execute import measure_plans
from qdqcli.run.pipeline import Measuring
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.conftest import Qdq
from tests.run.checkpoints import DTYPES, read_safetensors, sample, write_safetensors


def heavy(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, shape) * 0.02).astype(DTYPES[dtype])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    tensors = {dtype: heavy((60, 400), dtype) for dtype in ("BF16", "F16", "F32", "F64")}
    tensors["large"] = heavy((HISTOGRAM_ELEMENTS // 256 + 1, 256), "BF16")
    tensors["bias"] = heavy((40,), "F32")
    return write_safetensors(tmp_path / "w.safetensors", tensors)


def metric(report: dict[str, Any], name: str) -> dict[str, float]:
    return {row["name"]: row["stats"][name] for row in report["tensors"] if row["status"] == "quantized"}


@pytest.mark.parametrize("layout", [[], ["--axis", 0], ["--axis", "last"], ["--group-size", 40]], ids=str)
def test_run_and_stats_measure_the_same_and_write_what_they_measure(
    qdq: Qdq, weights: Path, tmp_path: Path, layout: list[Any]
) -> None:
    options = [*layout, "--num-bits", 4, "--estimator", "mse", "--min-ndim", 2, "--include", "*6*", "--include", "F32"]
    out = tmp_path / "out.safetensors"
    ran = qdq("run", weights, "-o", out, *options, "--format", "json").report
    measured = qdq("stats", weights, *options, "--format", "json", "--max-memory", "30kB", "--threads", 3).report
    assert ran["tensors"] == measured["tensors"]
    before, after = read_safetensors(weights), read_safetensors(out)
    for name, mse in metric(ran, "mse").items():
        error = after[name].astype(np.float64) - before[name].astype(np.float64)
        assert mse == pytest.approx(np.mean(error**2), rel=1.1e-6)
    with_channels = qdq("stats", weights, *options, "--format", "json", "--per-channel").report
    assert metric(with_channels, "mse") == metric(measured, "mse")


def test_the_report_says_who_chose_the_range(qdq: Qdq, weights: Path) -> None:
    options = ("--min-ndim", 0, "--estimator", "percentile", "--percentile", 99.5)
    report = qdq("stats", weights, *options, "--format", "json").report
    (spec,) = {tuple(row["spec"].items()) for row in report["tensors"]}
    assert dict(spec) == dict(spec) | {"estimator": "percentile", "percentile": 99.5, "range_given": True}
    assert (report["settings"]["estimator"], report["settings"]["percentile"]) == ("percentile", 99.5)
    x = np.sort(read_safetensors(weights)["F64"].reshape(-1))
    (row,) = [row for row in report["tensors"] if row["name"] == "F64"]
    rank = 23_880  # 99.5 % of 24,000
    assert row["range"] == {"input_min": x[-rank], "input_max": x[rank - 1]}
    assert row["stats"]["input_max"] == x[-1]
    table = qdq("stats", weights, "--estimator", "percentile", "--percentile", 99.5, "--axis", 0).out
    assert "int8 axis 0 p99.5" in table


def test_a_budget_judges_what_the_estimator_reaches(qdq: Qdq, weights: Path, tmp_path: Path) -> None:
    budget = tmp_path / "budget.toml"
    budget.write_text("schema = 1\n[summary]\nmin_sqnr_db = 9\n")
    options = ("--num-bits", 4, "--budget", budget)
    assert qdq("check", weights, *options).code == 1
    assert qdq("check", weights, *options, "--estimator", "mse").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--percentile", 99], "--percentile needs --estimator percentile"),
        (["--estimator", "mse", "--percentile", 99], "--percentile needs --estimator percentile"),
        (["--estimator", "percentile", "--percentile", 50], "percentile is 50.0"),
        (["--estimator", "percentile", "--percentile", 100.1], "percentile is 100.1"),
        (["--estimator", "percentile", "--percentile", "nan"], "percentile is nan"),
        (["--estimator", "mse", "--input-min", -1, "--input-max", 1], "--estimator mse chooses ranges"),
        (["--estimator", "mse", "--ranges", "r.json"], "--estimator mse chooses ranges"),
        (["--estimator", "best"], "'best' is not one of"),
    ],
    ids=str,
)
def test_options_without_a_meaning(qdq: Qdq, weights: Path, options: list[Any], words: str) -> None:
    result = qdq("stats", weights, *options)
    assert result.code == 2
    assert words in result.error


@pytest.mark.parametrize("name", ["minmax", "percentile", "mse"])
def test_histograms_of_groups_that_are_shorter_than_a_vector(qdq: Qdq, weights: Path, name: str) -> None:
    options = ("--group-size", 7, "--ragged-groups", "--min-ndim", 0, "--estimator", name, "--histograms")
    report = qdq("stats", weights, *options, "--format", "json").report
    for row in report["tensors"]:
        assert sum(row["histograms"]["errors"]["counts"]) == row["stats"]["num_elements"]


# ------------------------------------------------------------------ never worse than the whole range


def mean_squared_error(path: Path, spec: QuantSpec, given: tuple[Any, Any] | None) -> float:
    plans, _ = make_plans([open_checkpoint(path)], Recipe(spec=spec))
    with Workers(2) as workers:
        ranges = None if given is None else {"x": given}
        (row,) = measure_plans(plans, Measuring(ranges=ranges), workers)
    assert isinstance(row, TensorResult)
    assert not row.sums.num_nonfinite_output
    return sum(row.sums.sq_error)


KINDS = [
    ("BF16", RoundMode.HALF_TO_EVEN, ComputeDType.NATIVE),
    ("F16", RoundMode.HALF_UP, ComputeDType.FLOAT32),
    ("F32", RoundMode.HALF_TO_EVEN, ComputeDType.FLOAT32),
    ("F32", RoundMode.HALF_UP, ComputeDType.FLOAT32),
    ("F64", RoundMode.HALF_TO_EVEN, ComputeDType.FLOAT32),
]


LAYOUTS: list[dict[str, Any]] = [{}, {"axis": 0}, {"axis": 1}, {"group_size": 8}]


def whole_range(x: np.ndarray, layout: dict[str, Any]) -> tuple[Any, Any]:
    """The smallest and the largest element of each slice."""
    if "group_size" in layout:
        x, over = x.reshape(-1, layout["group_size"]), 1
    else:
        over = {0: 1, 1: 0}.get(layout.get("axis"))
    return x.min(axis=over).astype(np.float64), x.max(axis=over).astype(np.float64)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from([(1, 8), (7, 40), (33, 64)]),
    layout=st.sampled_from(LAYOUTS),
    num_bits=st.integers(2, 12),
    signed=st.booleans(),
    narrow=st.booleans(),
)
def test_mse_is_never_worse_than_the_range_of_all_elements(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: tuple[str, RoundMode, ComputeDType],
    shape: tuple[int, ...], layout: dict[str, Any], num_bits: int, signed: bool, narrow: bool,
) -> None:  # fmt: skip
    dtype, round_mode, compute_dtype = kind
    x = sample(shape, dtype, seed)
    x = x if signed else np.abs(x)
    path = write_safetensors(tmp_path_factory.mktemp("w") / "x.safetensors", {"x": x})
    attributes: dict[str, Any] = {
        "num_bits": num_bits, "signed_input": signed, "narrow_range": narrow, "round_mode": round_mode,
        "compute_dtype": compute_dtype, **layout,
    }  # fmt: skip
    searched = mean_squared_error(path, QuantSpec(estimator="mse", **attributes), None)
    given_whole = mean_squared_error(path, QuantSpec(range_given=True, **attributes), whole_range(x, layout))
    measured = mean_squared_error(path, QuantSpec(**attributes), None)
    rounding = 1 + 2.2e-6  # the search adds in float64
    assert searched <= given_whole * rounding
    assert searched <= measured * rounding, "the op itself, which does not clamp"
