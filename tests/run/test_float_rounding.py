"""Plain rounding to FP8 and FP4."""

import ml_dtypes
import numpy as np
import pytest

from qdqcli.run.float_rounding import KINDS
from qdqcli.tensors.packed.storage import Values

DTYPES = {
    Values.E4M3: ml_dtypes.float8_e4m3fn,
    Values.E5M2: ml_dtypes.float8_e5m2,
    Values.E2M1: ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("values", KINDS)
def test_nearest_numbers_are_those_of_ml_dtypes(values: Values) -> None:
    rng, kind = np.random.default_rng(20261130), KINDS[values]
    x = (rng.standard_normal(4096) * np.exp2(rng.uniform(-20, 18, 4096))).astype(np.float32)
    ties = np.arange(-64, 64, dtype=np.float32) * np.float32(2.0) ** (kind.least_exponent - kind.mantissa_bits - 1)
    for numbers in (x, ties, -ties):
        expected = np.clip(numbers, -kind.largest, kind.largest).astype(DTYPES[values]).astype(np.float32)
        assert np.array_equal(kind.nearest(numbers), expected)
