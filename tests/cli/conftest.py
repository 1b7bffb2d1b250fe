"""What tests of the command line share; and none of them leaves anything half-built."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qdqcli.run import pipeline, shard_output
from tests.cli import strace
from tests.run.checkpoints import sample, write_safetensors

LEFTOVERS = ("*.qdq-partial", ".qdq-*.tmp")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path for pattern in LEFTOVERS for path in tmp_path.rglob(pattern)] == []


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tensor is a part of its own, in this process too."""
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 1)
    monkeypatch.setattr(shard_output, "PART_BYTES", 1)


@pytest.fixture
def needs_strace() -> None:
    """Skips where strace cannot be used."""
    if reason := strace.reason_against():
        pytest.skip(reason)


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """Two shards and a side file: tensors for each way in which tensors are read and written."""
    folder = tmp_path / "model"
    small = {f"small.{i}": sample((4, 16), seed=i) for i in range(3)}
    write_safetensors(folder / "1.safetensors", {**small, "matrix": sample((300, 300)), "ids": np.arange(9)})
    write_safetensors(folder / "2.safetensors", {"odd": sample((5, 7), "F64"), "half": sample((300, 200), "BF16")})
    (folder / "config.json").write_text("{}")
    return folder
