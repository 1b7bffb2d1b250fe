"""Span and its kin: parts of a tensor in a file, for a back end whose kernels read and write for themselves."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.params import Floats
from qdqcli.stats.sums import CHUNK_ELEMENTS

Place = tuple[int, int]
"""An open descriptor and the byte of its file at which a tensor begins."""
Stored = NDArray[Any]
"""Elements as the kernels see them, `params.STORAGE`."""
STRIDE_BYTES = 1 << 20
"""Read, worked on and written at once: a call of the system for less costs more than the second cache gives back."""


def stride_elements(itemsize: int) -> int:
    """Elements of a stride: whole chunks, at least one."""
    return max(STRIDE_BYTES // (CHUNK_ELEMENTS * itemsize), 1) * CHUNK_ELEMENTS


READING, WRITING = 0, 1
"""Which call failed, as `trouble[0]` says beside the error's number in `trouble[1]`."""
Trouble = NDArray[np.int64]
"""(2,): READING or WRITING, and the number of the system's error: 0 for none, or where a file ended too early."""


def no_trouble() -> Trouble:
    """What kernels note their trouble in."""
    return np.zeros(2, np.int64)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Tensors of one dtype that follow one another in a file, each of at most a chunk and of whole runs."""

    source: int
    """Descriptor."""
    sink: int | None
    offset: int
    """Byte of the file at which the first one begins."""
    x: Stored
    """Room for all that lies between the first and the end of the last."""
    y: Stored
    """As much, where there is a sink."""
    places: NDArray[np.int64]
    """(tensors, 5): first element in `x`, number of elements, and the layout's steps."""
    trouble: Trouble = field(default_factory=no_trouble)


@dataclass(frozen=True, kw_only=True)
class NeighbourSums:
    """What was found out about each of them."""

    sums: NDArray[np.float64]
    """(tensors, SUM_COLUMNS), their one chunk's; the extremes are the hull of the ranges."""
    num_degenerate: NDArray[np.int64]
    """(tensors,)."""
    is_done: NDArray[np.bool_]
    """(tensors,): False where elements are not finite, a grid is degenerate or the file fails."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Elements [start, stop) of a tensor; `start` begins a chunk."""

    source: Place
    sink: Place | None = None
    """None: nothing is written."""
    x: Stored
    """Room for a stride, as its other user."""
    y: Stored
    start: int
    stop: int
    trouble: Trouble = field(default_factory=no_trouble)


@dataclass(frozen=True, kw_only=True)
class BlockSums:
    """What `requantize_and_sum` found."""

    sums: NDArray[np.float64]
    """(chunks, SUM_COLUMNS)."""
    ends: Floats
    """(2, slices)."""
    degenerate: NDArray[np.bool_]
    """(slices,)."""
