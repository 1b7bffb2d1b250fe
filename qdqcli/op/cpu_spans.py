"""The CPU back end for a span of a tensor that lies in a file as it is: chooses the loop that reads for itself.

Each function returns the element up to which all went well, and notes what the system refused.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import cpu_files
from qdqcli.op.columns import empty_sums
from qdqcli.op.cpu import Place, Stored, codes, grids_for_sums, half_up, is_columnar, room_for_sums, sum_place
from qdqcli.op.cpu_range import FLAG_ROWS, GRID_ROWS
from qdqcli.op.lanes import LANES
from qdqcli.op.layout import Layout
from qdqcli.op.params import (
    PATTERN,
    Keys,
    QuantParams,
    empty_keys,
    float_type,
    key_limits,
    like_of,
    merge_columns,
)
from qdqcli.op.spec import QuantSpec
from qdqcli.stats.sums import CHUNK_ELEMENTS

STRIDE_BYTES = 1 << 20
"""Read, worked on and written at once: a call of the system for less costs more than the second cache gives back."""


def stride_elements(itemsize: int) -> int:
    """Elements of a stride: whole chunks, at least one."""
    return max(STRIDE_BYTES // (CHUNK_ELEMENTS * itemsize), 1) * CHUNK_ELEMENTS


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


def requantize_and_sum(neighbours: Neighbours, max_slices: int, spec: QuantSpec, dtype: str) -> NeighbourSums:
    """Measure, quantize and sum each of many tensors with at most `max_slices` slices, from one read."""
    x, count = neighbours.x, len(neighbours.places)
    room = -(-max_slices // LANES) * LANES
    bits, number, like = x.view(PATTERN[dtype]), float_type(dtype), like_of(dtype, spec.compute_dtype)
    keys, ends = np.empty((2, room), bits.dtype), np.empty((2, room), number)
    grids, flags = np.empty((GRID_ROWS, room), number), np.empty((FLAG_ROWS, room), np.bool_)
    sums, num_degenerate, is_done = empty_sums(count), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    cpu_files.requantize_and_sum_each(
        neighbours.source, neighbours.sink, neighbours.offset, x, bits, neighbours.y, neighbours.places,
        *key_limits(dtype), *codes(spec, like, number), half_up(spec), like, keys, ends, grids, flags,
        *room_for_sums(x), sums, num_degenerate, is_done, neighbours.trouble,
    )  # fmt: skip
    return NeighbourSums(sums=sums, num_degenerate=num_degenerate, is_done=is_done)


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


def measure_range(span: Span, layout: Layout, keys: Keys, dtype: str) -> int:
    """Widen the `keys` (2, slices) of the whole tensor."""
    x, limits = span.x.view(PATTERN[dtype]), key_limits(dtype)
    if not is_columnar(layout):
        place = (span.start, span.stop, *layout.steps, 0)
        return int(cpu_files.measure_range(span.source, x, *place, *limits, keys, span.trouble))
    by_column = empty_keys(layout.row, dtype)
    done = int(
        cpu_files.measure_columns(span.source, x, span.start, span.stop, layout.row, *limits, by_column, span.trouble)
    )
    merge_columns(keys, by_column, np.arange(layout.row) // layout.inner)
    return done


def count_patterns(span: Span, tables: NDArray[np.uint32]) -> int:
    """Count the 16-bit patterns into `tables` (2, 65536)."""
    words = span.x[: span.x.size // 4 * 4].view(np.uint64)
    return int(cpu_files.count_patterns(span.source, words, span.start, span.stop, tables, span.trouble))


def quantize(span: Span, layout: Layout, params: QuantParams) -> int:
    """Quantize and dequantize from file to file, with one range."""
    settings = (params.clamping, params.half_up, params.like)
    place = (span.start, span.stop, *layout.steps, 0, params.grids, params.flags)
    return int(cpu_files.quantize(span.source, span.sink, span.x, span.y, *place, *settings, span.trouble))


def quantize_and_sum(span: Span, layout: Layout, params: QuantParams, sums: NDArray[np.float64]) -> int:
    """The same with the error sums of each chunk, (chunks, SUM_COLUMNS); not finite in ABS_ERROR where elements are."""
    place = sum_place(span.start, span.start, span.stop, layout, params)[1:]
    done = cpu_files.quantize_and_sum(
        span.source, span.sink, span.x, span.y, *place, *grids_for_sums(params), params.clamping, params.half_up,
        params.like, *room_for_sums(span.x), sums, span.trouble,
    )  # fmt: skip
    return int(done)
