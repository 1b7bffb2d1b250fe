"""The public API on arrays in (simulated) device memory: golden vectors of the real operator, who gets what back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from qdqcli import quantize_and_dequantize_v4, quantize_and_dequantize_v4_grad
from qdqcli.errors import DTypeError, SpecError
from tests.conformance.golden import SUBSET, Golden
from tests.op.bits import assert_same_bits

EVERY_NTH = 6
"""Of the golden vectors; a launch takes the simulator ten milliseconds and more."""


def forward(x: np.ndarray, *arguments: Any, **attributes: Any) -> np.ndarray:
    return quantize_and_dequantize_v4(cuda.to_device(x), *arguments, **attributes).copy_to_host()


def grad(gradients: np.ndarray, x: np.ndarray, *arguments: Any, **attributes: Any) -> tuple[np.ndarray, ...]:
    results = quantize_and_dequantize_v4_grad(cuda.to_device(gradients), cuda.to_device(x), *arguments, **attributes)
    return tuple(result.copy_to_host() for result in results)


@pytest.mark.parametrize("kind", ["forward", "grad", "error"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_arrays_on_a_device_equal_tensorflow(dtype: str, kind: str) -> None:
    golden = Golden(SUBSET)
    cases = golden.select(dtype, kind)[:: 1 if kind == "error" else EVERY_NTH]
    wrong = [text for case in cases if (text := golden.mismatch(case, forward, grad))]
    assert not wrong, "\n".join(wrong[:10])


def test_the_result_is_on_the_device_and_the_input_is_unchanged() -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32).reshape(4, 10)
    there = cuda.to_device(x)
    y = quantize_and_dequantize_v4(there, num_bits=3, axis=0)
    assert type(y) is type(there)
    assert_same_bits(y.copy_to_host(), quantize_and_dequantize_v4(x, num_bits=3, axis=0))
    assert_same_bits(there.copy_to_host(), x)


def test_ends_may_be_on_the_device() -> None:
    x = np.linspace(-1, 1, 12, dtype=ml_dtypes.bfloat16).reshape(3, 4)
    ranges = np.array([-0.5, -1, -2], np.float32), np.array([0.5, 0.25, 2], np.float32)
    got = quantize_and_dequantize_v4(cuda.to_device(x), *map(cuda.to_device, ranges), range_given=True, axis=0)
    assert_same_bits(got.copy_to_host(), quantize_and_dequantize_v4(x, *ranges, range_given=True, axis=0))


def test_arrays_with_gaps_and_other_dtypes_are_refused() -> None:
    with pytest.raises(DTypeError, match="C order"):
        quantize_and_dequantize_v4(cuda.to_device(np.zeros((3, 4), np.float32)).T)
    with pytest.raises(DTypeError, match="int32"):
        quantize_and_dequantize_v4(cuda.to_device(np.zeros(3, np.int32)))


def test_gradients_on_the_host_are_refused() -> None:
    x = np.zeros(3, np.float32)
    with pytest.raises(DTypeError, match="on the host"):
        quantize_and_dequantize_v4_grad(x, cuda.to_device(x), -1.0, 1.0)
    with pytest.raises(SpecError, match="input_min is missing"):
        quantize_and_dequantize_v4_grad(cuda.to_device(x), cuda.to_device(x), None, 1.0)
