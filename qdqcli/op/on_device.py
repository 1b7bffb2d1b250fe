"""Whether an array is in the memory of a CUDA device: asked of every argument of the API, so without importing CUDA."""

from typing import Any

import numpy as np

CUDA_DLPACK = (2, 13)
"""DLPack's numbers for memory of a CUDA device, and for memory that it shares with the host."""


def is_on_device(array: Any) -> bool:
    """Whether the array is on a CUDA device; no for anything that is no array."""
    if isinstance(array, np.ndarray | np.generic):
        return False
    if getattr(array, "__cuda_ndarray__", False):  # Numba's own
        return True
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) in CUDA_DLPACK
    return hasattr(array, "__cuda_array_interface__")
