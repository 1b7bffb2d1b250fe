"""Test for arrays in CUDA device memory. It runs for every argument of the API, so it does not import CUDA."""

from typing import Any

import numpy as np

CUDA_DLPACK = (2, 13)
"""DLPack device types of CUDA memory, and of CUDA memory shared with the host."""


def is_on_device(array: Any) -> bool:
    """Tell whether an array is on a CUDA device; False for anything that is not an array."""
    if isinstance(array, np.ndarray | np.generic):
        return False
    if getattr(array, "__cuda_ndarray__", False):  # Numba's own
        return True
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in CUDA_DLPACK
    return hasattr(array, "__cuda_array_interface__")
