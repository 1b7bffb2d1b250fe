"""Plain rounding to FP8 and FP4."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from qdqcli.run.float_rounding import KINDS
from qdqcli.tensors.packed.storage import Values
from tests.conftest import Qdq
from tests.tensors.packed.golden import save

DTYPES = {
    Values.E4M3: ml_dtypes.float8_e4m3fn,
    Values.E5M2: ml_dtypes.float8_e5m2,
    Values.E2M1: ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("values", KINDS)
def test_nearest_numbers_are_those_of_ml_dtypes(values: Values) -> None:
    rng, kind = np.random.default_rng(20261130), KINDS[values]
    x = (rng.standard_normal(4096) * np.exp2(rng.uniform(-20, 18, 4096))).astype(np.float32)
    ties = np.arange(-64, 64, dtype=np.float32) * np.float32(2.0) ** (kind.least_exponent - kind.mantissa_bits - 1)
    for numbers in (x, ties, -ties):
        expected = np.clip(numbers, -kind.largest, kind.largest).astype(DTYPES[values]).astype(np.float32)
        assert np.array_equal(kind.nearest(numbers), expected)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("shape", [(3, 40, 64), (3, 1100, 1024)], ids=["small", "large"])
def test_a_stack_of_matrices_with_a_scale_each(tmp_path: Path, qdq: Qdq, shape: tuple[int, ...], value: float) -> None:
    """Matrices of over a million elements are read some rows at a time; elements that are not finite are left out."""
    x = np.random.default_rng(1).standard_normal(shape) * np.array([1, 30, 0.1])[:, None, None]
    x = x.astype(np.float32)
    x[1, -1, -1] = value
    y = np.where(np.isfinite(x), x, 0)
    scales = np.abs(y).max(axis=(1, 2), keepdims=True) / np.float32(448)
    codes = (y / scales).astype(ml_dtypes.float8_e4m3fn)
    save(tmp_path / "x.safetensors", {"w": ("F32", x.shape, x.tobytes())})
    stored = {"w": ("F8_E4M3", x.shape, codes.tobytes()), "w_scale": ("F32", scales.shape, scales.tobytes())}
    save(tmp_path / "y.safetensors", stored)
    outcome = qdq("compare", tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--format", "json")
    (row,) = outcome.report["tensors"]
    assert row["packed"]["expected_sqnr_db"] == pytest.approx(row["stats"]["sqnr_db"], abs=0.05)


def test_an_original_beyond_float32(tmp_path: Path, qdq: Qdq) -> None:
    """No expected SQNR, and no warning of NumPy's."""
    x = np.full((2, 32), 1e300)
    save(tmp_path / "x.safetensors", {"w.weight": ("F64", x.shape, x.tobytes())})
    codes, scales = np.full((2, 16), 0x77, np.uint8), np.full((2, 2), 0x38, np.uint8)
    stored = {"w.weight": ("U8", (2, 16), codes.tobytes()), "w.weight_scale": ("F8_E4M3", (2, 2), scales.tobytes())}
    save(tmp_path / "y.safetensors", {**stored, "w.weight_scale_2": ("F32", (), np.float32(1).tobytes())})
    outcome = qdq("compare", tmp_path / "x.safetensors", tmp_path / "y.safetensors", "--format", "json")
    (row,) = outcome.report["tensors"]
    assert row["packed"]["expected_sqnr_db"] is None
    assert "Warning" not in outcome.err
