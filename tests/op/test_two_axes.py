"""One range per pair of indices: the op with axis 0 on the tensor with the two dimensions merged."""

from typing import Any

import numpy as np
import pytest

from qdqcli import QuantSpec, SpecError, quantize_and_dequantize_v4, quantize_and_measure
from qdqcli.op.layout import Layout
from tests.run.checkpoints import sample


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 300), (2, 2, 3, 5), (3, 4, 0)])
@pytest.mark.parametrize("estimator", ["minmax", "percentile", "mse"])
@pytest.mark.parametrize("settings", [{"num_bits": 4}, {"num_bits": 3, "signed_input": False, "narrow_range": True}])
def test_it_is_the_op_on_the_merged_shape(
    dtype: str, shape: tuple[int, ...], estimator: str, settings: dict[str, Any]
) -> None:
    x = sample(shape, dtype, 5)
    merged = x.reshape(shape[0] * shape[1], *shape[2:])
    y, sums = quantize_and_measure(x, axis=(0, 1), estimator=estimator, **settings)
    expected, its_sums = quantize_and_measure(merged, axis=0, estimator=estimator, **settings)
    assert y.tobytes() == expected.tobytes()
    assert sums == its_sums
    if estimator == "minmax":
        op = quantize_and_dequantize_v4(merged, axis=0, **settings)
        assert quantize_and_dequantize_v4(x, axis=(0, 1), **settings).tobytes() == op.tobytes()


def test_later_dimensions_merge_too() -> None:
    x = sample((2, 3, 4, 5), "F32", 1)
    y = quantize_and_dequantize_v4(x, num_bits=4, axis=(1, 2))
    assert y.tobytes() == quantize_and_dequantize_v4(x.reshape(2, 12, 5), num_bits=4, axis=1).tobytes()


def test_given_ranges_have_one_value_per_pair() -> None:
    x = sample((2, 3, 4), "F32", 1)
    low, high = -np.arange(1.0, 7.0), np.arange(1.0, 7.0)
    y = quantize_and_dequantize_v4(x, low, high, num_bits=4, range_given=True, axis=(0, 1))
    expected = quantize_and_dequantize_v4(x.reshape(6, 4), low, high, num_bits=4, range_given=True, axis=0)
    assert y.tobytes() == expected.tobytes()
    with pytest.raises(SpecError, match="has 2 values; the tensor has 6 slices"):
        quantize_and_dequantize_v4(x, low[:2], high[:2], range_given=True, axis=(0, 1))


@pytest.mark.parametrize("axis", [(0, 2), (1, 0), (0, 0), (-1, 0), (0, 1, 2), (0,), ("a", 1)])
def test_only_two_neighbours_in_order_are_a_pair(axis: Any) -> None:
    with pytest.raises(SpecError, match="axis"):
        QuantSpec(axis=axis)


def test_the_shape_must_have_both() -> None:
    with pytest.raises(SpecError, match=r"axis is 0,1; a tensor of shape \[3\] has rank 1"):
        Layout.of((3,), QuantSpec(axis=(0, 1)))
