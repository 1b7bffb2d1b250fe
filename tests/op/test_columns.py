"""Columns put together in memory: a transposition, whatever the numbers of rows and columns."""

import numpy as np
import pytest

from qdqcli.op.kernels import gather_columns


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("num_rows", [1, 15, 16, 33, 64])
@pytest.mark.parametrize(
    ("row", "first", "num_columns"), [(1, 0, 1), (40, 3, 16), (50, 0, 50), (64, 31, 33), (17, 16, 1)]
)
def test_columns_of_rows(num_rows: int, row: int, first: int, num_columns: int, dtype: type[np.integer]) -> None:
    x = np.random.default_rng(1).integers(-30_000, 30_000, (num_rows, row)).astype(dtype)
    out = np.full((num_columns, num_rows + 5), 77, dtype)
    gather_columns(x.reshape(-1), row, first, num_columns, out.reshape(-1), 2, num_rows + 5)
    assert (out[:, 2:-3] == x[:, first : first + num_columns].T).all()
    assert (out[:, :2] == 77).all()
    assert (out[:, -3:] == 77).all()
