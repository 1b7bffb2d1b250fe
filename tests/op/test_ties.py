"""Errors of elements next to a tie, where y comes nearest to 2 x."""

import numpy as np
import pytest

from qdqcli.op.columns import ABS_ERROR, ERROR, SQ_ERROR, SQ_INPUT, SQ_OUTPUT
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.layout import Layout
from qdqcli.op.spec import QuantSpec, RoundMode
from tests import reference

COLUMNS = {
    "sum_error": ERROR,
    "sum_abs_error": ABS_ERROR,
    "sum_sq_error": SQ_ERROR,
    "sum_sq_input": SQ_INPUT,
    "sum_sq_output": SQ_OUTPUT,
}


def rows_of_ties(num_bits: int) -> np.ndarray:
    """Rows of sixteen: the largest element, whose step is near a power of two, then neighbours of the first ties."""
    rng, steps = np.random.default_rng(num_bits), 2 ** (num_bits - 1) - 1
    near = np.concatenate([1 + np.arange(512) * 2.0**-23, 2 - np.arange(1, 513) * 2.0**-23, rng.uniform(1, 2, 3072)])
    hi = (steps * near * 2.0 ** rng.integers(-20, 20, near.size)).astype(np.float32)
    x = np.empty((near.size, 16), np.float32)
    x[:, 0] = hi
    for column in range(1, 16):
        code = 0.5 if column < 10 else 1.5
        tie = (code * hi / steps).astype(np.float32)
        x[:, column] = (tie.view(np.int32) + column % 9 - 4).view(np.float32)
    return x.reshape(-1)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("round_mode", RoundMode)
def test_sums_next_to_ties_follow_the_documented_order(num_bits: int, round_mode: RoundMode) -> None:
    x = rows_of_ties(num_bits)
    spec = QuantSpec(num_bits=num_bits, round_mode=round_mode, axis=0)
    layout, y = Layout.of((x.size // 16, 16), spec), np.empty_like(x)
    found = cpu.fake_quantize_and_sum(x, y, 0, 0, x.size, layout, [spec], "F32", keep=True)
    assert found is not None
    (of_setting,) = found
    expected = reference.ordered_sums(x, y)
    for name, column in COLUMNS.items():
        assert of_setting.sums[:, column].tolist() == [expected[name]], name
