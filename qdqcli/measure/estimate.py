"""Range estimation for a stored tensor; memory does not grow with the tensor.

The estimator gets each slice as a contiguous run. Short ones come whole, many at a time; long ones in parts, as often
as it asks. Slices that are not contiguous in the file (an axis after the first) are gathered in memory, as many as fit,
and the tensor is read once for each such set.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from qdqcli.measure.blocks import Block, InMemory, blocks_of, cut, has_histogram, read_block
from qdqcli.measure.workers import Result, Workers
from qdqcli.op import kernels
from qdqcli.op.histogram import PatternCounter, PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.minmax import MinMax
from qdqcli.op.params import FLOAT_TYPE, PATTERN, STORAGE, Floats, Stored
from qdqcli.op.spec import DEFAULT_ESTIMATOR, QuantSpec
from qdqcli.ranges.estimator import RangeEstimator, WholeSlices, estimator
from qdqcli.ranges.minmax import MinMaxEstimator
from qdqcli.stats.sums import CHUNK_ELEMENTS
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

_MIN_SCRATCH_BYTES = 8 << 20
"""Minimum bytes for gathered slices, regardless of --max-memory."""
_COUNTED_ELEMENTS = 8 * CHUNK_ELEMENTS
"""Elements of a block whose patterns are counted: 1 MiB stays in the core's own cache beside the tables of counts."""
_LONG_RUN = 1024
"""Elements from which a run is read on its own; shorter ones are extracted from whole rows."""


def count_patterns(
    reader: ShardReader | InMemory, info: TensorInfo, workers: Workers, on_bytes: Callable[[int], None] = lambda _: None
) -> PatternHistogram:
    """Return the pattern counts of a tensor; `on_bytes` receives the bytes of each finished block."""
    counter = PatternCounter(info.dtype.name)

    def count(block: Block) -> None:
        x = read_block(reader, info, workers, "input", block)
        counter.see(x)
        on_bytes(x.nbytes)

    workers.map(count, blocks_of(info, workers, _COUNTED_ELEMENTS))
    return counter.histogram()


def estimate_ranges(
    spec: QuantSpec, reader: ShardReader | InMemory, info: TensorInfo, layout: Layout, workers: Workers
) -> Floats:
    """Return the range bounds (2, slices): the same bits for every number of threads and block size."""
    source = _Source(reader, info, layout, workers)
    if spec.estimator == DEFAULT_ESTIMATOR and not (layout.is_contiguous and source.has_short_runs):
        return source.extremes()
    chosen = estimator_of(spec, info.dtype.name, workers)
    if has_histogram(info, layout):
        return chosen.of_patterns(count_patterns(reader, info, workers))
    if not layout.is_contiguous:
        return source.ranges_of_scattered(chosen)
    return source.ranges_of_short_runs(chosen) if source.has_short_runs else source.ranges_of_long(chosen)


def count_zero_slices(reader: ShardReader | InMemory, info: TensorInfo, layout: Layout, workers: Workers) -> int:
    """Return the number of slices whose elements, except NaN, are all zero."""

    def count(ranges: Floats) -> int:
        return int((ranges == 0.0).all(axis=0).sum())

    source = _Source(reader, info, layout, workers)
    if not (layout.is_contiguous and source.has_short_runs):
        return count(source.extremes())
    return sum(source.map_short_runs(estimator_of(QuantSpec(), info.dtype.name, workers), count))


def estimator_of(spec: QuantSpec, dtype: str, workers: Workers) -> RangeEstimator:
    """Return the estimator of the settings; only the op's own one measures on the workers' device."""
    if spec.estimator == DEFAULT_ESTIMATOR:
        return MinMaxEstimator(spec, dtype, workers.backend)
    return estimator(spec.estimator)(spec, dtype)


def ranges_in_memory(chosen: RangeEstimator, x: Stored, start: int, layout: Layout) -> Floats:
    """Return the range bounds (2, slices) of whole contiguous slices; x[0] is element `start`, which begins a slice."""
    slices = WholeSlices(x=x, start=start, layout=layout)
    if layout.inner <= CHUNK_ELEMENTS or len(x) <= CHUNK_ELEMENTS:
        return chosen.of_slices(slices)
    bounds = [layout.start_of(slices.first_slice + s) - start for s in range(slices.num_slices + 1)]
    runs = [x[begin:end] for begin, end in pairwise(bounds)]
    return np.concatenate([_range_of_run(chosen, run) for run in runs], axis=1)


def _range_of_run(chosen: RangeEstimator, x: Stored) -> Floats:
    long_slice = chosen.of_long_slice(len(x))
    while True:
        long_slice.see(x, 0, len(x))
        if long_slice.finish_pass():
            return long_slice.ranges()


class _Source:
    """A stored tensor and its slices."""

    def __init__(self, reader: ShardReader | InMemory, info: TensorInfo, layout: Layout, workers: Workers) -> None:
        self._reader, self._info, self._layout, self._workers = reader, info, layout, workers
        self._blocks = blocks_of(info, workers)
        self._block_elements = workers.block_elements(info.dtype.bits // 8)
        self._storage = STORAGE[info.dtype.name]

    def extremes(self) -> Floats:
        """Return the min-max ranges of periodic or long contiguous slices, from one read."""
        measured = MinMax(self._layout, self._info.dtype.name, 0, self._layout.num_slices, self._workers.backend)

        def see(block: Block) -> None:
            measured.see(self._read(*block), *block)

        blocks, size = self._blocks, self._info.num_elements
        if isinstance(self._reader, InMemory):  # no buffer limits a block, and few are begun sooner
            blocks = cut(size, max(self._block_elements, -(-size // (2 * self._workers.num_threads))))
        self._workers.map(see, blocks)
        return measured.ranges()

    @property
    def has_short_runs(self) -> bool:
        """Tell whether slices, if contiguous, are short enough to read many whole ones at a time."""
        return self._layout.num_slices > 1 and 4 * self._layout.inner <= self._block_elements

    def ranges_of_short_runs(self, chosen: RangeEstimator) -> Floats:
        """Return the bounds of short contiguous slices, each with the block that it begins in."""
        return np.concatenate(self.map_short_runs(chosen, lambda ranges: ranges), axis=1)

    def map_short_runs(self, chosen: RangeEstimator, function: Callable[[Floats], Result]) -> list[Result]:
        """Apply the function, for each block, to the bounds of the slices that begin in it."""

        def ranges(block: Block) -> Floats:
            first, last = self._layout.slice_of(block[0]), self._layout.slice_of(block[1] - 1) + 1
            first += self._layout.start_of(first) < block[0]
            if first == last:
                return np.empty((2, 0), FLOAT_TYPE[self._info.dtype.name])
            start = self._layout.start_of(first)
            return ranges_in_memory(chosen, self._read(start, self._layout.start_of(last)), start, self._layout)

        return self._workers.map(lambda block: function(ranges(block)), self._blocks)

    def ranges_of_long(self, chosen: RangeEstimator) -> Floats:
        """Return the bounds of long slices, one after another, with the parts of each in parallel."""
        return np.concatenate([self._range_of_long(chosen, s) for s in range(self._layout.num_slices)], axis=1)

    def ranges_of_scattered(self, chosen: RangeEstimator) -> Floats:
        """Return the bounds of non-contiguous slices: gathers as many as fit into memory, or parts of a larger one."""
        size, scratch_bytes = self._layout.size_of(0), max(self._workers.max_memory // 2, _MIN_SCRATCH_BYTES)
        fitting = scratch_bytes // (size * np.dtype(self._storage).itemsize)
        if not fitting:
            return self.ranges_of_long(chosen)
        stripes = [
            range(s, min(s + fitting, self._layout.num_slices)) for s in range(0, self._layout.num_slices, fitting)
        ]
        return np.concatenate([self._ranges_of_stripe(chosen, stripe, size) for stripe in stripes], axis=1)

    def _ranges_of_stripe(self, chosen: RangeEstimator, slices: range, size: int) -> Floats:
        """Return the bounds of consecutive slices that fit into memory."""
        num_rows = size // self._layout.inner
        x = np.empty((len(slices), num_rows, self._layout.inner), self._storage)
        step = max(self._block_elements // self._layout.row, 1)
        bands = [(row, min(row + step, num_rows)) for row in range(0, num_rows, step)]
        if self._layout.inner == 1 and self._layout.row <= self._block_elements:
            self._workers.map(lambda band: self._gather_columns(slices, *band, x), bands)
        else:
            self._workers.map(lambda band: self._gather(slices, *band, x[:, slice(*band)]), bands)
        gathered = Layout.of((len(slices), size), QuantSpec(axis=0))
        flat, step = x.reshape(-1), max(self._block_elements // (4 * size), 1) * size
        parts = range(0, x.size, step)
        ranges = self._workers.map(lambda at: ranges_in_memory(chosen, flat[at : at + step], at, gathered), parts)
        return np.concatenate(ranges, axis=1)

    def _range_of_long(self, chosen: RangeEstimator, s: int) -> Floats:
        """Return the bounds of one slice."""
        size = self._layout.size_of(s)
        long_slice = chosen.of_long_slice(size)

        def see(start: int) -> None:
            end = min(start + self._block_elements, size)
            long_slice.see(self._part(s, start, end), start, end)

        while True:
            self._workers.map(see, range(0, size, self._block_elements))
            if long_slice.finish_pass():
                return long_slice.ranges()

    def _gather(self, slices: range, first_row: int, last_row: int, out: Stored) -> None:
        """Copy the runs of these slices and rows into `out` (slices, rows, inner)."""
        inner, row = self._layout.inner, self._layout.row
        begin, end = slices.start * inner, slices.stop * inner
        if inner >= _LONG_RUN:
            for k, s in enumerate(slices):
                for r in range(first_row, last_row):
                    self._read_into(r * row + s * inner, out[k, r - first_row])
        elif row <= self._block_elements:
            x = self._read(first_row * row, last_row * row).reshape(last_row - first_row, row)
            out[:] = x[:, begin:end].reshape(last_row - first_row, len(slices), inner).transpose(1, 0, 2)
        else:
            step = self._block_elements // inner * inner
            for r in range(first_row, last_row):
                for at in range(begin, end, step):
                    x = self._read(r * row + at, r * row + min(at + step, end))
                    k = (at - begin) // inner
                    out[k : k + len(x) // inner, r - first_row] = x.reshape(-1, inner)

    def _gather_columns(self, slices: range, first_row: int, last_row: int, out: Stored) -> None:
        """Copy these rows of columns into `out`, which has space for all rows."""
        row, pattern = self._layout.row, PATTERN[self._info.dtype.name]
        x = self._read(first_row * row, last_row * row)
        kernels.gather_columns(
            x.view(pattern), row, slices.start, len(slices), out.reshape(-1).view(pattern), first_row, out.shape[1]
        )

    def _part(self, s: int, start: int, end: int) -> Stored:
        """Return the elements [start, end) of one slice, in a buffer."""
        if self._layout.is_contiguous:
            begin = self._layout.start_of(s)
            return self._read(begin + start, begin + end)
        inner = self._layout.inner
        first, last = start // inner, -(-end // inner)
        if inner < _LONG_RUN:
            x = self._workers.buffer("gathered", self._storage, (last - first) * inner)
            self._gather_rows(s, first, last, x.reshape(1, -1, inner))
            return x[start - first * inner : end - first * inner]
        x = self._workers.buffer("gathered", self._storage, end - start)
        for r in range(first, last):
            at, to = max(start, r * inner), min(end, (r + 1) * inner)
            self._read_into(r * self._layout.row + s * inner + at - r * inner, x[at - start : to - start])
        return x

    def _gather_rows(self, s: int, first_row: int, last_row: int, out: Stored) -> None:
        """Copy any number of rows of one slice, see `_gather`."""
        step = max(self._block_elements // self._layout.row, 1)
        for row in range(first_row, last_row, step):
            end = min(row + step, last_row)
            self._gather(range(s, s + 1), row, end, out[:, row - first_row : end - first_row])

    def _read(self, start: int, stop: int) -> Stored:
        return read_block(self._reader, self._info, self._workers, "input", (start, stop))

    def _read_into(self, start: int, out: Stored) -> None:
        """Fill a contiguous buffer with the elements from `start` on."""
        self._reader.read_into(self._info, start * out.itemsize, out.view(np.uint8).data)
        if self._info.big_endian:
            out.byteswap(inplace=True)
