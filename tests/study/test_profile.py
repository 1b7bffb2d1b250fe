"""A profile is what NumPy says of the same slices, whatever the layout, the order of the bytes and the blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.op.spec import QuantSpec
from qdqcli.study.profile import BLOCK_ELEMENTS, OUTLIER_FACTOR, Profile, gaussian_peak, profile
from qdqcli.tensors.checkpoint import open_checkpoint

SHAPE = (6, 10, 14)
SPECS: list[dict[str, Any]] = [
    {}, {"axis": 0}, {"axis": 1}, {"axis": 2}, {"group_size": 7}, {"group_size": 4, "ragged_groups": True},
]  # fmt: skip


def data() -> np.ndarray:
    x = np.random.default_rng(3).standard_normal(SHAPE)
    x[2, 3, 4] = 60
    x[:, :, 9] *= 8
    return x


def slices_of(x: np.ndarray, spec: dict[str, Any]) -> list[np.ndarray]:
    if "axis" in spec:
        return list(np.moveaxis(x, spec["axis"], 0).reshape(x.shape[spec["axis"]], -1))
    if "group_size" in spec:
        rows = x.reshape(-1, x.shape[-1])
        return [row[at : at + spec["group_size"]] for row in rows for at in range(0, x.shape[-1], spec["group_size"])]
    return [x.reshape(-1)]


def profile_of(path: Path, array: np.ndarray, spec: dict[str, Any], block: int = BLOCK_ELEMENTS) -> Profile:
    np.save(path, array)
    shard = open_checkpoint(path).shards[0]
    with shard.open() as reader:
        return profile(reader, shard.tensors[0], QuantSpec(**spec), lambda: None, block)


@pytest.mark.parametrize("block", [1 << 18, 37])
@pytest.mark.parametrize("kind", ["C", "F", ">f4"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_slices_are_those_of_the_setting(tmp_path: Path, spec: dict[str, Any], kind: str, block: int) -> None:
    if kind == "F" and "group_size" in spec:
        pytest.skip("groups are not contiguous in Fortran order")
    x = data().astype(">f4" if kind == ">f4" else "<f8")
    found = profile_of(tmp_path / "x.npy", np.asfortranarray(x) if kind == "F" else x, spec, block)
    x = x.astype(np.float64)
    slices = slices_of(x, spec)
    assert found.slices.count == len(slices)
    peak = sum(len(s) * np.abs(s).max() ** 2 for s in slices)
    half = sum(len(s) * ((s.max() - s.min()) / 2) ** 2 for s in slices)
    assert found.slices.peak_db == pytest.approx(10 * np.log10(peak / np.sum(x**2)), abs=1e-9)
    assert found.slices.offset_db == pytest.approx(10 * np.log10(peak / half), abs=1e-9)
    factor = OUTLIER_FACTOR * gaussian_peak(round(x.size / len(slices)))
    outliers = sum(int(np.sum(np.abs(s) > factor * np.sqrt(np.mean(s**2)))) for s in slices)
    assert found.num_outliers == outliers
    assert found.rows is not None
    assert found.columns is not None
    np.testing.assert_allclose(found.rows.mean_abs, np.abs(x).mean(axis=(1, 2)))
    np.testing.assert_allclose(found.columns.mean_abs, np.abs(x).mean(axis=(0, 1)))
    assert found.columns.standing_out() == [9]
    assert (found.low, found.high) == (x.min(), x.max())
    if spec == {}:
        assert (2, 3, 4) in found.outliers


@pytest.mark.parametrize("array", [np.float32(3), np.ones(5, "<f4"), np.zeros((4, 4), "<f4")], ids=["scalar", "1", "0"])
def test_small_and_empty_shapes_have_a_profile(tmp_path: Path, array: np.ndarray) -> None:
    found = profile_of(tmp_path / "x.npy", np.asarray(array), {})
    assert found.slices.count == 1
    assert found.num_outliers == 0


def test_what_is_no_number_is_named_and_left_aside(tmp_path: Path) -> None:
    x = data()
    x[4, 1, 2], x[5, 0, 0] = np.nan, np.inf
    found = profile_of(tmp_path / "x.npy", x, {"axis": 0})
    assert found.first_nonfinite == (4, 1, 2)
    assert found.high == 60
