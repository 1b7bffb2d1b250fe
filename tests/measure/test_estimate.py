"""Ranges that estimators choose for stored tensors: those of the plain oracle, whatever the layout, memory, threads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.measure import estimate
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op.histogram import HISTOGRAM_ELEMENTS
from qdqcli.op.params import Floats
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.ranges.estimator import ESTIMATORS
from qdqcli.stats.sums import CHUNK_ELEMENTS
from qdqcli.tensors.checkpoint import open_checkpoint
from tests import reference
from tests.op.bits import assert_same_bits
from tests.ranges import oracle
from tests.run.checkpoints import DTYPES, sample, write_safetensors
from tests.run.slices import Op, indices_of_slices

FLOATS = ("BF16", "F16", "F32", "F64")
LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor": {},
    "rows": {"axis": 0},
    "columns": {"axis": 1},
    "groups": {"group_size": 5, "ragged_groups": True},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "signed": {"num_bits": 4},
    "unsigned": {"num_bits": 4, "signed_input": False},
    "narrow, half up": {"num_bits": 3, "narrow_range": True, "round_mode": "HALF_UP"},
    "native": {"num_bits": 4, "compute_dtype": "native"},
    "one bit": {"num_bits": 1},
}


def spec_of(estimator: str, compute_dtype: str = "float32", **settings: Any) -> QuantSpec:
    return QuantSpec(estimator=estimator, compute_dtype=ComputeDType(compute_dtype), **settings)


def estimated(folder: Path, x: np.ndarray, spec: QuantSpec, *, threads: int = 2, max_memory: int = 1 << 28) -> Floats:
    (shard,) = open_checkpoint(write_safetensors(folder / "x.safetensors", {"x": x})).shards
    (info,) = shard.tensors
    with shard.open() as reader, Workers(threads, max_memory) as workers:
        return estimate.estimate_ranges(spec, reader, info, layout_of(info, spec), workers)


def expected(x: np.ndarray, spec: QuantSpec, op: Op = quantize_and_dequantize_v4) -> np.ndarray:
    slices = indices_of_slices(x.shape, axis=spec.axis, group_size=spec.group_size)
    parts = [x.reshape(-1)[indices] for indices in slices]
    if spec.estimator == "percentile":
        ranges = [oracle.percentile(part, str(spec.percentile)) for part in parts]
    else:
        attributes = {
            "num_bits": spec.num_bits,
            "signed_input": spec.signed_input,
            "narrow_range": spec.narrow_range,
            "round_mode": str(spec.round_mode),
        }
        ranges = [oracle.mse(part, op, str(spec.compute_dtype), **attributes) for part in parts]
    return np.array(ranges, np.float64).T.astype(np.float64 if x.dtype == np.float64 else np.float32)


def spoiled(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """With zeros, subnormals, NaN and infinities; of its rows one is all zeros, one not finite."""
    x = sample(shape, dtype, 21)
    x[0, :2] = np.nan, np.inf
    x[1] = 0.0
    x[2, 1] = -0.0
    x[2, 2] = np.finfo(np.float32).smallest_subnormal
    x[3] = np.nan
    x[3, 4] = -np.inf
    x[4] = np.abs(x[4].astype(np.float32)).astype(x.dtype)
    return x


def settings_by_dtype() -> Iterator[Any]:
    """F32 and F64 are computed natively anyway; one dtype of each compute type rounds half up."""
    for dtype in FLOATS:
        for name, settings in SETTINGS.items():
            if dtype not in {"native": ("F32", "F64"), "narrow, half up": ("F16", "F64")}.get(name, ()):
                yield pytest.param(dtype, settings, id=f"{dtype}-{name}")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(("dtype", "settings"), list(settings_by_dtype()))
def test_mse_takes_what_the_slow_oracle_takes(
    tmp_path: Path, dtype: str, layout: dict[str, Any], settings: dict[str, Any]
) -> None:
    x, spec = spoiled((6, 7), dtype), spec_of("mse", **layout, **settings)
    assert_same_bits(estimated(tmp_path, x, spec), expected(x, spec, reference.quantize_and_dequantize_v4))


@pytest.mark.parametrize("num_bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e21])
def test_float64_decides_where_sums_in_float32_do_not(tmp_path: Path, scale: float, num_bits: int) -> None:
    """Groups with outliers, of few values with equal errors, of one sign, constant; squares beyond float32."""
    x = np.random.default_rng(num_bits).standard_normal((5, 256))
    x[1] = np.round(x[1] * 2) / 2
    x[2] = abs(x[2]) + 1
    x[3] = 0.37
    x[4, ::100] = 40.0
    x = (x * scale).astype(np.float32)
    spec = spec_of("mse", num_bits=num_bits, group_size=128)
    assert_same_bits(estimated(tmp_path, x, spec), expected(x, spec))


@pytest.mark.parametrize("percent", [50.5, 80.0, 99.0, 100.0])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_percentiles_are_elements_of_their_rank(
    tmp_path: Path, dtype: str, layout: dict[str, Any], percent: float
) -> None:
    x, spec = spoiled((30, 33), dtype), spec_of("percentile", percentile=percent, **layout)
    assert_same_bits(estimated(tmp_path, x, spec), expected(x, spec))


BIG: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "tensor of many chunks": ((9, CHUNK_ELEMENTS + 777), {}),
    "tensor of part of a chunk": ((3, 1001), {}),
    "rows longer than a chunk": ((2, 2 * CHUNK_ELEMENTS + 77), {"axis": 0}),
    "rows across blocks": ((16, 5000), {"axis": 0}),
    "columns": ((701, 20), {"axis": 1}),
    "columns of runs": ((10, 5, 1500), {"axis": 1}),
    "long columns": ((CHUNK_ELEMENTS + 999, 2), {"axis": 1}),
    "groups": ((20, 640), {"group_size": 128}),
}


@pytest.mark.parametrize("estimator", ["percentile", "mse"])
@pytest.mark.parametrize(("shape", "layout"), BIG.values(), ids=BIG)
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_neither_blocks_nor_threads_nor_memory_change_a_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, shape: tuple[int, ...], layout: dict[str, Any],
    estimator: str,
) -> None:  # fmt: skip
    x = np.random.default_rng(5).standard_t(4, shape).astype(DTYPES[dtype])
    x.reshape(-1)[[7, -7]] = np.nan, np.inf
    spec = spec_of(estimator, num_bits=4, percentile=99.9, **layout)
    want = expected(x, spec)
    assert_same_bits(estimated(tmp_path, x, spec, threads=3), want)
    monkeypatch.setattr(estimate, "_MIN_SCRATCH_BYTES", 100_000)  # too little for a long column
    assert_same_bits(estimated(tmp_path, x, spec, threads=1, max_memory=1), want)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_the_counts_of_patterns_give_the_same_range(tmp_path: Path, dtype: str) -> None:
    x = sample((HISTOGRAM_ELEMENTS + 70_001,), dtype)
    x[:3] = np.nan, -np.inf, -0.0
    spec = spec_of("percentile", percentile=99.5)
    assert_same_bits(estimated(tmp_path, x, spec), expected(x, spec))
    for compute_dtype in ("float32", "native"):
        spec = spec_of("mse", compute_dtype, num_bits=4)
        # In another order of addition: only an error that is as small up to rounding may be taken instead.
        got, want = estimated(tmp_path, x, spec), expected(x, spec)
        errors = [
            oracle.squared_error(x, tuple(ranges[:, 0]), quantize_and_dequantize_v4, compute_dtype, num_bits=4)
            for ranges in (got, want)
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-12)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "minmax"])
def test_a_slice_of_nothing_finite_has_a_range_of_zeros(tmp_path: Path, name: str) -> None:
    for dtype in DTYPES:
        if DTYPES[dtype].kind in "fV" or dtype == "BF16":
            x = np.full((3, CHUNK_ELEMENTS + 5), np.inf, DTYPES[dtype])
            x[1] = 1.0
            ranges = estimated(tmp_path, x, spec_of(name, axis=0))
            assert not ranges[:, [0, 2]].any()
            assert ranges[:, 1].tolist() == [1, 1] or name == "mse"
            assert not estimated(tmp_path, x[0], spec_of(name)).any()


SCALES = [1e-38, 1e-22, 1e-15, 1e-3, 1.0, 1e18, 1e30]


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(dtype, scale) for dtype in ("F32", "BF16", "F16", "F64") for scale in SCALES],
)
def test_the_search_takes_what_brute_force_takes_at_every_scale(tmp_path: Path, dtype: str, scale: float) -> None:
    """What is dropped unseen, by what it clips, is never the best: one sign, outliers, plateaus, few elements.

    Of F16, the small scales are zeros of both signs, and the large ones infinite.
    """
    rng = np.random.default_rng(6)
    rows = [rng.standard_t(3, 130), abs(rng.standard_normal(130)), -abs(rng.standard_normal(130)),
            np.where(np.arange(130) == 40, 50.0, rng.standard_normal(130)), np.repeat([1.0, -1.0], 65),
            rng.standard_normal(130) * (np.arange(130) < 5)]  # fmt: skip
    with np.errstate(all="ignore"):
        x = (np.stack(rows) * scale).astype(DTYPES[dtype])
    for settings in ({"num_bits": 8}, {"num_bits": 3, "round_mode": RoundMode.HALF_UP}, {"num_bits": 2}):
        spec = spec_of("mse", axis=0, **settings)
        with np.errstate(all="ignore"):
            assert_same_bits(estimated(tmp_path, x, spec), expected(x, spec))
