"""Each cause is found where a tensor has it and no other, and what was measured reaches what is possible."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qdqcli import quantize_and_measure
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import ComputeDType, QuantSpec
from qdqcli.recipe.plan import make_plans
from qdqcli.recipe.recipe import Recipe
from qdqcli.report.diagnosis import to_json
from qdqcli.run.execute import measure_plans, result_of
from qdqcli.run.pipeline import Measuring
from qdqcli.study.causes import level
from qdqcli.study.diagnose import DiagnosedRun, choose, diagnose
from qdqcli.study.profile import gaussian_half_range, gaussian_peak
from qdqcli.tensors.checkpoint import open_checkpoint
from tests.run.checkpoints import BF16, write_safetensors

ROWS, COLUMNS = 256, 384


def report_of(
    path: Path, threads: int = 2, max_memory: int = 64 << 20, added: float = 0.1, **spec: Any
) -> DiagnosedRun:
    """Diagnose all tensors of a file."""
    recipe = Recipe(spec=QuantSpec(compute_dtype=ComputeDType.FLOAT32, **spec), min_ndim=0)
    with Workers(threads, max_memory) as workers:
        plans, _ = make_plans([open_checkpoint(path)], recipe)
        before = result_of("diagnose", plans, {}, measure_plans(plans, Measuring(), workers))
        return diagnose(plans, before, choose(before.rows, takes_all=True), Measuring(), workers, added)


def possible_db(x: np.ndarray, num_bits: int) -> float:
    """The SQNR of a fine symmetric grid, each row of `x` having its own, errors being spread evenly over a step."""
    step = np.abs(x.astype(np.float64)).max(axis=1) / 2 ** (num_bits - 1)
    return 10 * float(np.log10(np.mean(x.astype(np.float64) ** 2) / np.mean(step**2 / 12)))


def gaussian(random: np.random.Generator) -> np.ndarray:
    return random.standard_normal((ROWS, COLUMNS))


def outlier_rows(random: np.random.Generator) -> np.ndarray:
    x = gaussian(random)
    x[[17, 80, 200]] *= 20
    return x


def outlier_elements(random: np.random.Generator) -> np.ndarray:
    x = gaussian(random)
    x.flat[random.choice(x.size, 12, replace=False)] = 20
    return x


def columns_apart(random: np.random.Generator) -> np.ndarray:
    return gaussian(random) * np.exp(random.standard_normal(COLUMNS))


def blocks_apart(random: np.random.Generator) -> np.ndarray:
    return gaussian(random) * np.repeat(np.exp(random.standard_normal((ROWS, COLUMNS // 128))), 128, axis=1)


def with_infinity(random: np.random.Generator) -> np.ndarray:
    x = gaussian(random)
    x[3, 5] = np.inf
    return x


def on_grid(random: np.random.Generator) -> np.ndarray:
    """Int4 in groups of 32, each of which has the lowest code."""
    codes = random.integers(-8, 8, (ROWS, COLUMNS))
    codes[:, ::32] = -8
    return codes * np.repeat(random.uniform(0.5, 2, (ROWS, COLUMNS // 32)), 32, axis=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Settings, data with one cause, and what the generator knows to be possible."""

    spec: dict[str, Any]
    make: Callable[[np.random.Generator], np.ndarray]
    possible: Callable[[np.ndarray], float] = lambda _: -np.inf
    evidence: Callable[[dict[str, Any]], bool] = lambda _: True


INT8 = {"num_bits": 8}
CASES = {
    "outlier-rows": Case(
        spec=INT8, make=outlier_rows, possible=lambda x: possible_db(x, 8),
        evidence=lambda e: {row["index"] for row in e["rows"]} == {17, 80, 200},
    ),
    "outlier-elements": Case(
        spec=INT8, make=outlier_elements, possible=lambda x: possible_db(x, 8), evidence=lambda e: e["count"] == 12,
    ),
    "wrong-axis": Case(
        spec=INT8 | {"axis": 0}, make=columns_apart, possible=lambda x: possible_db(x.T, 8),
        evidence=lambda e: e["axis"] == 1,
    ),
    "coarse-group": Case(
        spec=INT8 | {"axis": 0}, make=blocks_apart, possible=lambda x: possible_db(x.reshape(-1, 128), 8),
        evidence=lambda e: e["slice"] == COLUMNS and e["group_size"] in (64, 128),
    ),
    "heavy-tails": Case(
        spec=INT8 | {"group_size": 128}, make=lambda r: r.laplace(size=(ROWS, COLUMNS)),
        possible=lambda x: possible_db(x.reshape(-1, 64), 8), evidence=lambda e: 3.9 < e["kurtosis"] < 4.3,
    ),
    "asymmetric": Case(
        spec=INT8, make=lambda r: gaussian(r) + 2, possible=lambda x: possible_db(x, 8),
        evidence=lambda e: 2 < e["zero_point_db"] < 4,
    ),
    "unused-codes": Case(
        spec=INT8, make=lambda r: np.abs(gaussian(r)), possible=lambda x: possible_db(x.reshape(1, -1), 9),
        evidence=lambda e: e["unused"] == 0.5,
    ),
    "nonfinite": Case(
        spec=INT8, make=with_infinity, possible=lambda x: possible_db(x[np.isfinite(x)].reshape(1, -1), 8),
        evidence=lambda e: e == {"count": 1, "first": [3, 5]},
    ),
    "degenerate": Case(spec=INT8, make=lambda r: gaussian(r) * 1e-41, evidence=lambda e: e["slices"] == 1),
    "already-quantized": Case(
        spec=INT8 | {"group_size": 32}, make=on_grid, possible=lambda _: 120.2,
        evidence=lambda e: (e["num_bits"], e["group_size"], e["symmetric"]) == (4, 32, True),
    ),
    "plain": Case(spec=INT8 | {"axis": 0}, make=gaussian, possible=lambda x: possible_db(x.reshape(-1, 128), 8)),
}  # fmt: skip


@pytest.mark.parametrize("cause", CASES)
def test_a_cause_is_found_alone_and_the_first_remedy_reaches_what_is_possible(cause: str, tmp_path: Path) -> None:
    case = CASES[cause]
    x = case.make(np.random.default_rng(5)).astype("<f4")
    (found,) = report_of(write_safetensors(tmp_path / "w.safetensors", {"w": x}), **case.spec).diagnoses
    assert [finding.cause for finding in found.findings] == [cause]
    assert case.evidence(dict(found.findings[0].evidence)), found.findings[0].evidence
    reached = level(found.remedies[0].row) if found.remedies else -np.inf
    assert reached >= case.possible(x) - 0.2  # a positive peak has 127 codes


@pytest.mark.parametrize("dtype", ["<f4", BF16], ids=str)
def test_outstanding_rows_are_measured_in_float(tmp_path: Path, dtype: Any) -> None:
    x = np.random.default_rng(5).standard_normal((1200, COLUMNS))
    x[[17, 80, 1100]] *= 20
    w = x.astype(dtype)
    path = write_safetensors(tmp_path / "w.safetensors", {"w": w})
    (found,) = report_of(path, num_bits=4, axis=-1, max_memory=1 << 20).diagnoses
    kept = found.rows_in_float
    assert kept is not None
    assert sorted(kept.rows) == [17, 80, 1100]
    rest = np.delete(w, kept.rows, axis=0)
    y, _ = quantize_and_measure(rest, num_bits=4, compute_dtype="float32")
    error = ((y.astype("f8") - rest.astype("f8")) ** 2).sum()
    assert kept.sqnr_db == pytest.approx(10 * np.log10((w.astype("f8") ** 2).sum() / error), abs=1e-6)
    assert kept.gain_db == kept.sqnr_db - level(found.row)
    assert kept.bits_added == 3 / 1200 * (w.dtype.itemsize * 8 - 4)


def test_equal_tensors_are_duplicates_by_name(tmp_path: Path) -> None:
    x = gaussian(np.random.default_rng(1)).astype("<f4")
    path = write_safetensors(tmp_path / "w.safetensors", {"a": x, "b": x, "c": -x})
    found = {d.row.source.name: d.findings for d in report_of(path, axis=0).diagnoses}
    assert {name: [f.cause for f in findings] for name, findings in found.items()} == {
        "a": ["duplicate"], "b": ["duplicate"], "c": ["plain"],
    }  # fmt: skip
    assert found["a"][0].evidence == {"tensors": ["b"]}


GAUSSIAN_SETTINGS = [
    {"num_bits": 8},
    {"num_bits": 4, "axis": 0},
    {"num_bits": 4, "group_size": 32},
    {"num_bits": 3, "axis": 1, "estimator": "mse"},
]


def check_plain(path: Path, count: int) -> None:
    random = np.random.default_rng(count)
    shapes = [(64, 256), (32, 128), (256, 64), (128, 384), (64, 32)]
    tensors = {
        f"w{k}": (random.standard_normal(shapes[k % 5]) * 10.0 ** random.integers(-3, 3)).astype(
            ["<f4", "<f2", BF16][k % 3]
        )
        for k in range(count)
    }
    write_safetensors(path, tensors)
    for spec in GAUSSIAN_SETTINGS:
        causes = {d.row.source.name: [f.cause for f in d.findings] for d in report_of(path, **spec).diagnoses}
        assert causes == {name: ["plain"] for name in tensors}, spec


def test_gaussian_tensors_are_plain_under_any_setting(tmp_path: Path) -> None:
    check_plain(tmp_path / "w.safetensors", 50)  # under each of four settings


@pytest.mark.slow
def test_many_gaussian_tensors_are_plain(tmp_path: Path) -> None:
    check_plain(tmp_path / "w.safetensors", 1000)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", BF16], ids=str)
@pytest.mark.parametrize("group_size", [None, 16, 64])
@pytest.mark.parametrize("zero_point", [0, 5])
def test_a_grid_is_recognised_in_any_dtype_with_its_slices(
    tmp_path: Path, dtype: Any, group_size: int | None, zero_point: int
) -> None:
    random = np.random.default_rng(2)
    size = group_size or COLUMNS
    codes = random.integers(0, 8, (ROWS * COLUMNS // size, size)) - 4
    codes[:, 0], codes[:, 1] = -4, 3
    x = ((codes + zero_point) * random.uniform(0.5, 2, (len(codes), 1))).reshape(ROWS, COLUMNS).astype(dtype)
    (found,) = report_of(write_safetensors(tmp_path / "w.safetensors", {"w": x}), num_bits=8, axis=0).diagnoses
    assert found.cause == "already-quantized"
    evidence = found.findings[0].evidence
    assert (evidence["group_size"], evidence["axis"]) == (group_size, "none" if group_size else 0)
    # With the zero point the codes are 1 to 8: four bits without a sign.
    assert (evidence["num_bits"], evidence["signed_input"]) == ((4, False) if zero_point else (3, True))
    assert evidence["is_idempotent"] is (zero_point == 0)  # the largest of 15 codes would be 8


@pytest.mark.parametrize("dtype", ["<f4", BF16], ids=str)
@pytest.mark.parametrize("slices", ["tensor", "rows", "groups of 32", "groups of 16", "blocks"])
@pytest.mark.parametrize("values", ["E4M3", "E2M1"])
def test_a_grid_of_float_values_is_recognised(tmp_path: Path, values: str, slices: str, dtype: Any) -> None:
    random = np.random.default_rng(4)
    kind = {"E4M3": ml_dtypes.float8_e4m3fn, "E2M1": ml_dtypes.float4_e2m1fn}[values]
    x, largest = random.standard_normal((ROWS, COLUMNS)), float(ml_dtypes.finfo(kind).max)
    height, width = {"tensor": (ROWS, COLUMNS), "rows": (1, COLUMNS), "groups of 32": (1, 32), "groups of 16": (1, 16),
                     "blocks": (128, 128)}[slices]  # fmt: skip
    shape = ROWS // height, COLUMNS // width, height, width
    tiles = x.reshape(shape[0], shape[2], shape[1], shape[3]).swapaxes(1, 2)
    scale = np.abs(tiles).max(axis=(2, 3), keepdims=True) / largest * random.uniform(1, 1.2, (*shape[:2], 1, 1))
    scale = scale.astype(dtype).astype("f8")
    tiles = np.clip(tiles / scale, -largest, largest).astype(kind).astype("f8") * scale
    w = tiles.swapaxes(1, 2).reshape(ROWS, COLUMNS).astype(dtype)
    (found,) = report_of(write_safetensors(tmp_path / "w.safetensors", {"w": w}), num_bits=8, axis=0).diagnoses
    assert found.cause == "already-quantized"
    evidence = found.findings[0].evidence
    assert evidence["values"] == values
    expected = {"tensor": ("none", None, None), "rows": (0, None, None), "groups of 32": ("none", 32, None),
                "groups of 16": ("none", 16, None), "blocks": ("none", None, 128)}  # fmt: skip
    assert (evidence["axis"], evidence["group_size"], evidence["block"]) == expected[slices]


def test_an_affine_grid_needs_its_zero_point(tmp_path: Path) -> None:
    codes = np.random.default_rng(2).integers(-3, 13, (ROWS, COLUMNS))
    path = write_safetensors(tmp_path / "w.safetensors", {"w": (codes * 0.037).astype("<f4")})
    (found,) = report_of(path, num_bits=8, axis=0).diagnoses
    assert found.cause == "already-quantized"
    evidence = found.findings[0].evidence
    assert (evidence["num_bits"], evidence["symmetric"], evidence["axis"]) == (4, False, "none")
    assert evidence["is_idempotent"] is None


def test_neither_threads_nor_memory_change_a_digit(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    tensors = {cause: case.make(random).astype("<f4") for cause, case in CASES.items()}
    tensors["large"] = random.standard_t(4, (1000, 700)).astype("<f4")
    path = write_safetensors(tmp_path / "w.safetensors", tensors)
    texts = [
        json.dumps(to_json(report_of(path, threads, memory, num_bits=4, axis=0)))
        for threads, memory in ((1, 3 << 20), (4, 64 << 20))
    ]
    assert texts[0] == texts[1]


def test_rows_are_those_with_the_largest_errors_and_those_that_are_spoilt(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    tensors = {f"w{k}": (gaussian(random) * 2.0**-k).astype("<f4") for k in range(6)}
    tensors["spoilt"] = (with_infinity(random) * 1e-6).astype("<f4")
    report = report_of(write_safetensors(tmp_path / "w.safetensors", tensors), num_bits=4, axis=0)
    names = [row.source.name for row in report.before.rows]
    assert [names[k] for k in choose(report.before.rows)] == ["w0", "w1", "spoilt"]
    assert [names[k] for k in choose(report.before.rows, 1)] == ["spoilt"]


@pytest.mark.parametrize("size", [16, 128, 4096])
def test_expected_peaks_are_those_of_draws(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((4000, size))
    peak = np.sqrt(np.mean(np.abs(x).max(axis=1) ** 2))
    half = np.sqrt(np.mean(((x.max(axis=1) - x.min(axis=1)) / 2) ** 2))
    assert gaussian_peak(size) == pytest.approx(peak, rel=0.01)
    assert gaussian_half_range(size) == pytest.approx(half, rel=0.01)
