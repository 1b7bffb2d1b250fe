"""Archives with members that are no arrays of numbers, through the command line."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Qdq
from tests.run.checkpoints import sample
from tests.tensors.files import npy_bytes, zip_bytes


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """An array, an array of Python objects, a JSON file and a folder."""
    np.save(tmp_path / "meta.npy", np.array({"epoch": 3}, dtype=object))
    members = [("params/", b""), ("params/w.npy", npy_bytes(sample((4, 8)))), ("config.json", b"{}")]
    path = tmp_path / "mixed.npz"
    path.write_bytes(zip_bytes([*members, ("meta.npy", (tmp_path / "meta.npy").read_bytes())]))
    return path


def test_what_is_no_array_of_numbers_is_copied(qdq: Qdq, mixed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    result = qdq("run", mixed, "-o", output, "--verify", "--format", "json")
    assert result.code == 0, result.err
    assert not any(row.get("selected") for row in result.report["tensors"])  # nothing that was meant to be quantized
    assert {row["name"]: row["status"] for row in result.report["tensors"]} == {
        "params/w": "quantized",
        "config.json": "skipped",
        "meta": "skipped",
    }
    with np.load(mixed, allow_pickle=True) as before, np.load(output, allow_pickle=True) as after:
        assert after.files == before.files
        assert after["config.json"] == b"{}"
        assert after["meta"].item() == {"epoch": 3}
        assert not np.array_equal(after["params/w"], before["params/w"])


@pytest.mark.parametrize("pattern", ["meta", "config.json"])
def test_what_is_no_array_of_numbers_has_a_name_for_patterns(qdq: Qdq, mixed: Path, pattern: str) -> None:
    assert qdq("stats", mixed, "--exclude", pattern).code == 0
