"""No test of the command line leaves anything half-built."""

from collections.abc import Iterator
from pathlib import Path

import pytest

LEFTOVERS = ("*.qdq-partial", ".qdq-*.tmp", ".*.qdq-report")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    yield
    assert [path for pattern in LEFTOVERS for path in tmp_path.rglob(pattern)] == []
