"""File ranges and batches: parts of a tensor in a file, for kernels that do their own reads and writes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.params import Floats
from qdqcli.stats.sums import CHUNK_ELEMENTS

Place = tuple[int, int]
"""An open descriptor and the byte offset of a tensor in its file."""
Stored = NDArray[Any]
"""Elements as the kernels see them, `params.STORAGE`."""
STRIDE_BYTES = 1 << 20
"""Bytes read, processed and written at once: with less, the extra system calls cost more than the L2 cache saves."""


def stride_elements(itemsize: int) -> int:
    """Return the elements of a stride: whole chunks, at least one."""
    return max(STRIDE_BYTES // (CHUNK_ELEMENTS * itemsize), 1) * CHUNK_ELEMENTS


READING, WRITING = 0, 1
"""Failed call, in `io_status[0]`; `io_status[1]` is its errno."""
IoStatus = NDArray[np.int64]
"""(2,): READING or WRITING, and errno: 0 for no error, or for a file that ended too early."""


def no_io_error() -> IoStatus:
    """Return a fresh error record for kernels."""
    return np.zeros(2, np.int64)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Adjacent tensors of one dtype in a file, each of at most one chunk and of whole runs."""

    source: int
    """File descriptor."""
    sink: int | None
    offset: int
    """Byte offset of the first tensor in the file."""
    x: Stored
    """Scratch buffer for everything from the start of the first tensor to the end of the last."""
    y: Stored
    """Scratch buffer of the same size, if there is a sink."""
    places: NDArray[np.int64]
    """(tensors, 5): first element in `x`, number of elements, and the layout's steps."""
    io_status: IoStatus = field(default_factory=no_io_error)


@dataclass(frozen=True, kw_only=True)
class BatchSums:
    """Results of `fake_quantize_and_sum_each` for each tensor of a batch."""

    sums: NDArray[np.float64]
    """(tensors, SUM_COLUMNS), each with one chunk; the extremes are the union of the slice ranges."""
    num_degenerate: NDArray[np.int64]
    """(tensors,)."""
    is_done: NDArray[np.bool_]
    """(tensors,): False where elements are not finite, a scale is degenerate or the file fails."""


@dataclass(frozen=True, kw_only=True)
class FileRange:
    """Elements [start, stop) of a tensor; `start` begins a chunk."""

    source: Place
    sink: Place | None = None
    """None: nothing is written."""
    x: Stored
    """Scratch buffer for a stride, like `y`."""
    y: Stored
    start: int
    stop: int
    io_status: IoStatus = field(default_factory=no_io_error)


@dataclass(frozen=True, kw_only=True)
class BlockSums:
    """Result of `fake_quantize_and_sum`."""

    sums: NDArray[np.float64]
    """(chunks, SUM_COLUMNS)."""
    ranges: Floats
    """(2, slices)."""
    degenerate: NDArray[np.bool_]
    """(slices,)."""
