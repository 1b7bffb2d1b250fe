"""What packed weights decode to, against golden files that each format's own library made (`make_golden.py`)."""

from pathlib import Path

import numpy as np
import pytest

from qdqcli.tensors.checkpoint import open_checkpoint
from tests.conftest import Qdq
from tests.tensors.packed.golden import FOLDERS, GOLDEN, arrays, decoded, origin


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_weight_is_what_its_library_decodes(folder: Path) -> None:
    """Bit for bit, once rounded to the dtype in which the library multiplies."""
    found, expected = arrays(decoded(folder / "packed")), arrays(open_checkpoint(folder / "decoded.safetensors"))
    assert origin(folder)["version"]
    assert found.keys() >= expected.keys()
    for name, values in expected.items():
        ours = found[name].astype(values.dtype)
        assert ours.shape == values.shape, name
        different = np.flatnonzero(ours.astype(np.float32) != values.astype(np.float32))
        assert not different.size, (name, different[:5], ours.flat[different[:5]], values.flat[different[:5]])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_compare_gives_the_sqnr_of_the_library(folder: Path, qdq: Qdq) -> None:
    outcome = qdq("compare", folder / "original.safetensors", folder / "packed", "--format", "json")
    assert outcome.code == 0, outcome.err
    original = arrays(open_checkpoint(folder / "original.safetensors"))
    expected = arrays(open_checkpoint(folder / "decoded.safetensors"))
    rows = {row["name"]: row for row in outcome.report["tensors"]}
    assert rows.keys() == original.keys()
    for name, row in rows.items():
        x, y = original[name].astype(np.float64), expected[name].astype(np.float64)
        theirs = 10 * np.log10((x * x).sum() / ((x - y) ** 2).sum())
        is_exact = expected[name].dtype == np.float32  # else the library rounds its products to a narrower dtype
        assert row["stats"]["sqnr_db"] == pytest.approx(theirs, abs=1e-6 if is_exact else 0.5), name
        assert row["packed"]["bits"] in range(1, 9)
        assert row["stats"]["bits_per_weight"] == 8 * row["packed"]["num_bytes"] / x.size


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("compressed-tensors-float-quantized", "block.weight"),
        ("compressed-tensors-float-quantized", "tensor.weight"),
        ("compressed-tensors-mxfp8", "a.weight"),
        ("compressed-tensors-nvfp4", "a.weight"),
        ("fp8-blocks", "experts.weight"),
        ("mlx", "nvfp4.weight"),
        ("modelopt-nvfp4", "a.weight"),
        ("modelopt-fp8", "a.weight"),
        ("torchao", "float8.weight"),
    ],
)
def test_expected_is_the_sqnr_of_libraries_that_round_plainly(name: str, weight: str, qdq: Qdq) -> None:
    folder = GOLDEN / name
    outcome = qdq("compare", folder / "original.safetensors", folder / "packed", "--format", "json")
    (row,) = (row for row in outcome.report["tensors"] if row["name"] == weight)
    assert row["packed"]["expected_sqnr_db"] == pytest.approx(row["stats"]["sqnr_db"], abs=0.02)
