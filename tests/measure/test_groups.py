"""Groups of neighbours along the last axis: the op on `reshape(-1, N)` with axis 0, at every rank and dtype."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdqcli.op.spec import ComputeDType
from tests import reference
from tests.measure.test_tensor import FLOATS, quantize_array, sums_by_name
from tests.op.bits import assert_same_bits
from tests.run.checkpoints import sample

SHAPES = [(), (6,), (3, 6), (2, 1, 6), (1, 2, 2, 6), (2, 1, 1, 2, 6), (1,) * 5 + (6,), (1, 2, 1, 1, 1, 2, 6),
          (2, 1, 1, 1, 1, 1, 1, 6)]  # fmt: skip
"""Rank 0 to 8."""
SETTINGS: list[dict[str, Any]] = [
    {"num_bits": 4},
    {"num_bits": 3, "signed_input": False, "round_mode": "HALF_UP"},
    {"num_bits": 5, "narrow_range": True},
]


def expected(x: np.ndarray, group_size: int, compute_dtype: ComputeDType, **settings: Any) -> np.ndarray:
    """What the definition says, by the oracle."""
    groups = np.ascontiguousarray(x).reshape(-1, group_size)
    y = reference.quantize_and_dequantize_v4(groups, axis=0, compute_dtype=str(compute_dtype), **settings)
    return y.reshape(x.shape)


@pytest.mark.parametrize(
    ("dtype", "compute_dtype"),
    [
        ("BF16", ComputeDType.NATIVE),
        ("F16", ComputeDType.FLOAT32),
        ("F32", ComputeDType.FLOAT32),
        ("F64", ComputeDType.NATIVE),
    ],
)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")
def test_groups_are_the_op_on_rows_of_the_reshaped_tensor(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, compute_dtype: ComputeDType
) -> None:
    x = sample(shape, dtype, seed=len(shape))
    for group_size in (1, 2, 3, 6) if shape else (1,):
        for settings in SETTINGS:
            got, _ = quantize_array(tmp_path, x, group_size=group_size, compute_dtype=compute_dtype, **settings)
            assert_same_bits(got, expected(x, group_size, compute_dtype, **settings), x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")
def test_the_last_group_of_a_row_may_be_shorter(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    x = sample(shape, dtype, seed=len(shape))
    rows = x.reshape(-1, shape[-1] if shape else 1)
    got, measured = quantize_array(
        tmp_path, x, num_bits=4, group_size=4, ragged_groups=True, compute_dtype=ComputeDType.NATIVE
    )
    parts = [expected(np.ascontiguousarray(part), part.shape[1], ComputeDType.NATIVE, num_bits=4)
             for part in (rows[:, :4], rows[:, 4:]) if part.size]  # fmt: skip
    assert_same_bits(got, np.concatenate(parts, axis=1).reshape(shape), x)
    assert measured.num_slices == len(parts) * len(rows)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "group_size"), [((5, 21), 7), ((3, 5, 9), 3), ((7, 1), 1), ((2, 3 * 1031), 1031)])
def test_each_group_has_its_own_statistics(tmp_path: Path, shape: tuple[int, ...], group_size: int, dtype: str) -> None:
    x = sample(shape, dtype, seed=11)
    got, measured = quantize_array(
        tmp_path, x, num_bits=4, group_size=group_size, per_slice=True, compute_dtype=ComputeDType.FLOAT32
    )
    pairs = list(zip(x.reshape(-1, group_size), got.reshape(-1, group_size), strict=True))
    assert measured.slice_sums is not None
    assert len(measured.slice_sums) == len(pairs)
    for sums, (before, after) in zip(measured.slice_sums, pairs, strict=True):
        assert sums.num_elements == group_size
        wide = before.astype(np.float64)
        assert (sums.input_min, sums.input_max) == (wide.min(), wide.max())
        assert sums.max_abs_error == np.abs(after.astype(np.float64) - wide).max()
        e = after.astype(np.float64) - wide
        assert sums_by_name(sums)["sum_sq_error"] == pytest.approx(float((e * e).sum()), rel=1e-12, abs=1e-300)
