"""The finite elements of slices: how many, and the smallest and largest of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import ranks
from qdqcli.op.histogram import NUM_PATTERNS
from qdqcli.op.params import INFINITY, PATTERN, Floats, Keys, empty_keys, ends_of_keys, key_limits
from qdqcli.ranges.estimator import WholeSlices


@dataclass(frozen=True, kw_only=True)
class FiniteElements:
    """Of each of some slices."""

    dtype: str
    numbers: NDArray[np.int64]
    """(slices,)."""
    keys: Keys
    """(2, slices): the order keys of the extremes."""

    @property
    def ends(self) -> Floats:
        """(2, slices); zeros where a slice has no finite element."""
        return ends_or_zeros(self.keys, self.dtype)

    @classmethod
    def of(cls, slices: WholeSlices, dtype: str) -> "FiniteElements":
        """Look at each element once."""
        numbers, keys = np.zeros(slices.num_slices, np.int64), empty_keys(slices.num_slices, dtype)
        ranks.count_finite(slices.x.view(PATTERN[dtype]), *slices.place, *key_limits(dtype), numbers, keys)
        return cls(dtype=dtype, numbers=numbers, keys=keys)


def ends_or_zeros(keys: Keys, dtype: str) -> Floats:
    """The ends (2, slices) of ranges from their keys; zeros where nothing was seen."""
    return ends_of_keys(np.where(keys[0] <= keys[1], keys, 0).astype(keys.dtype), dtype)


def counts_by_key(counts: NDArray[np.int64], dtype: str) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """From counts of elements by the upper 16 bits of their pattern: the same bits of their keys in rising order.

    Of the finite elements alone: those bits tell them apart in every dtype.
    """
    bits = np.arange(NUM_PATTERNS, dtype=np.uint16).view(np.int16)
    keys = np.where(bits < 0, bits ^ np.int16(0x7FFF), bits)
    order = np.argsort(keys)
    infinity = INFINITY[dtype] >> (8 * np.dtype(PATTERN[dtype]).itemsize - 16)
    order = order[(keys[order] < infinity) & (keys[order] > -infinity - 1)]
    return keys[order], counts[order]
