"""Count, minimum and maximum of the finite elements of slices."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.histogram import NUM_PATTERNS
from qdqcli.op.params import (
    INFINITY,
    PATTERN,
    Floats,
    OrderKeys,
    empty_order_keys,
    order_key_limits,
    ranges_of_order_keys,
)
from qdqcli.ranges.estimator import WholeSlices


@dataclass(frozen=True, kw_only=True)
class FiniteElements:
    """Count and extremes of the finite elements, per slice."""

    dtype: str
    numbers: NDArray[np.int64]
    """Number of finite elements, shape (slices,)."""
    order_keys: OrderKeys
    """Order keys of the extremes, shape (2, slices)."""

    @property
    def ranges(self) -> Floats:
        """Return the extremes, shape (2, slices); zeros for a slice without finite elements."""
        return ranges_or_zeros(self.order_keys, self.dtype)

    @classmethod
    def of(cls, slices: WholeSlices, dtype: str) -> "FiniteElements":
        """Scan each element once."""
        numbers, order_keys = np.zeros(slices.num_slices, np.int64), empty_order_keys(slices.num_slices, dtype)
        kernels.count_finite(
            slices.x.view(PATTERN[dtype]), *slices.indices, order_key_limits(dtype), numbers, order_keys
        )
        return cls(dtype=dtype, numbers=numbers, order_keys=order_keys)


def ranges_or_zeros(order_keys: OrderKeys, dtype: str) -> Floats:
    """Decode ranges, shape (2, slices), from their keys; zeros where nothing was seen."""
    return ranges_of_order_keys(np.where(order_keys[0] <= order_keys[1], order_keys, 0).astype(order_keys.dtype), dtype)


def counts_by_key(counts: NDArray[np.int64], dtype: str) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Convert counts by the upper 16 bits of the bit pattern to counts by the upper 16 bits of the key, ascending.

    Finite elements only: those bits distinguish them in every dtype.
    """
    bits = np.arange(NUM_PATTERNS, dtype=np.uint16).view(np.int16)
    order_keys = np.where(bits < 0, bits ^ np.int16(0x7FFF), bits)
    order = np.argsort(order_keys)
    infinity = INFINITY[dtype] >> (8 * np.dtype(PATTERN[dtype]).itemsize - 16)
    order = order[(order_keys[order] < infinity) & (order_keys[order] > -infinity - 1)]
    return order_keys[order], counts[order]
