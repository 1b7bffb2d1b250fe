"""NumPy dtypes of stored elements, and their values as float32."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

NUMPY: dict[str, type[np.generic]] = {
    "BOOL": np.uint8,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "I64": np.int64,
    "U64": np.uint64,
    "F16": np.float16,
    "BF16": np.uint16,
    "F32": np.float32,
    "F64": np.float64,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "F8_E8M0": np.uint8,
    "F8_E4M3FNUZ": np.uint8,
    "F8_E5M2FNUZ": np.uint8,
}
"""Dtype name -> NumPy type of the stored elements; bytes where NumPy has no such type."""

_FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Values of 4-bit floating-point codes (FP4)."""


@cache
def table(dtype: str) -> NDArray[np.float32]:
    """Return the value of each byte of an 8-bit floating-point dtype; NaN is kept."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float32] = np.arange(256, dtype=np.uint8).view(_FLOAT8[dtype]).astype(np.float32)
        return found


def as_float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return the values of stored elements; `dtype` is their safetensors name."""
    values: NDArray[np.float32]
    if dtype in _FLOAT8:
        values = table(dtype)[stored]
    elif dtype == "BF16":
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    else:
        values = stored.astype(np.float32)
    return values
