"""Tests marked `gpu` run on a CUDA device, and are skipped where there is none."""

import pytest

from qdqcli.op.backend import missing_for_cuda


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = missing_for_cuda() if item.get_closest_marker("gpu") else None
    if reason is not None:
        pytest.skip(reason)
