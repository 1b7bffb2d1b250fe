"""Large outputs, written with non-temporal stores by several threads: the same bits as small ones."""

import ml_dtypes
import numpy as np
import pytest

from qdqcli import quantize_and_dequantize_v4
from qdqcli.op import arrays
from qdqcli.op.cpu import dispatch as cpu
from tests.op.bits import assert_same_bits

DTYPES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)]
SHAPES = [(513, 512), (3001, 48), (128, 5, 256), (129, 31, 33)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_do_not_depend_on_size(
    monkeypatch: pytest.MonkeyPatch, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    x = (np.random.default_rng(1).standard_normal(shape) * 3).astype(dtype)
    x.reshape(-1)[[5, -7]] = np.nan
    for axis in range(-1, len(shape)):
        monkeypatch.setattr(arrays, "PARALLEL_ELEMENTS", x.size + 1)
        by_one_thread = quantize_and_dequantize_v4(x, axis=axis)
        monkeypatch.setattr(arrays, "PARALLEL_ELEMENTS", 1)
        monkeypatch.setattr(arrays, "PART_ELEMENTS", 1 << 16)
        monkeypatch.setattr(cpu, "NONTEMPORAL_BYTES", 0)
        assert_same_bits(quantize_and_dequantize_v4(x, axis=axis), by_one_thread, x, f"axis {axis}")
