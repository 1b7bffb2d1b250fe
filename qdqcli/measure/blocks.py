"""Blocks of a tensor: whole chunks, read into a worker's buffer; how often each is read, and what is kept of it."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import UsageError
from qdqcli.escape import escape_name
from qdqcli.measure.workers import Workers
from qdqcli.op.columns import SUM_COLUMNS
from qdqcli.op.histogram import HISTOGRAM_ELEMENTS
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, Stored, floats_of
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.tensor import TensorInfo

Block = tuple[int, int]
"""Elements [start, stop) of the flat tensor; `start` is a chunk's first."""
QPARAM_BYTES = 64
"""Bytes for the range and the qparams of one slice."""
SUMS_BYTES = 3 * 8 * SUM_COLUMNS
"""Bytes for the sums of one slice, where they are requested."""


class InMemory:
    """Arrays in place of the tensor of a shard: its blocks are read and written where they lie."""

    def __init__(self, x: Stored, y: Stored) -> None:
        self.x, self.y = x, y

    def read_into(self, _tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer`, as a `ShardReader` does."""
        buffer[:] = self.x.view(np.uint8).data[start : start + buffer.nbytes]


def blocks_of(info: TensorInfo, workers: Workers, max_elements: int = sys.maxsize) -> list[Block]:
    """Return the blocks of a tensor, whole chunks each, of at most `max_elements`."""
    return cut(info.num_elements, min(workers.block_elements(info.dtype.bits // 8), max_elements))


def cut(num_elements: int, step: int) -> list[Block]:
    """Return the blocks of `step` elements, the last of which may be shorter."""
    return [(start, min(start + step, num_elements)) for start in range(0, num_elements, step)]


def has_histogram(info: TensorInfo, layout: Layout) -> bool:
    """Tell whether pattern counts replace the elements: a large 16-bit tensor with one range."""
    return layout.num_elements >= HISTOGRAM_ELEMENTS and layout.num_slices == 1 and info.dtype.bits == 16


def has_one_pass(layout: Layout, blocks: Sequence[Block]) -> bool:
    """Tell whether the range of a slice is known when its first block is quantized."""
    return layout.is_contiguous and (len(blocks) < 2 or 4 * layout.inner <= blocks[0][1])


def read_block(reader: ShardReader | InMemory, info: TensorInfo, workers: Workers, name: str, block: Block) -> Stored:
    """Read the elements of `block` into this thread's buffer of that name, in native byte order."""
    start, stop = block
    if isinstance(reader, InMemory):
        return reader.x[start:stop]
    x = workers.buffer(name, STORAGE[info.dtype.name], stop - start)
    reader.read_into(info, start * x.itemsize, x.view(np.uint8).data)
    return x.byteswap(inplace=True) if info.big_endian else x


def read_floats(reader: ShardReader, info: TensorInfo, block: Block) -> NDArray[np.float64]:
    """Read the elements of `block` as float64, into an array of their own."""
    start, stop = block
    stored: Stored = np.empty(stop - start, STORAGE[info.dtype.name])
    if stored.size:
        reader.read_into(info, start * stored.itemsize, stored.view(np.uint8).data)
    return floats_of(stored.byteswap() if info.big_endian else stored).astype(np.float64)


def output_block(writer: ShardWriter | InMemory, workers: Workers, x: Stored, start: int) -> Stored:
    """Return the place of the outputs of the elements `x`, from `start` on."""
    if isinstance(writer, InMemory):
        return writer.y[start : start + len(x)]
    return workers.buffer("output", x.dtype.type, len(x))


def write_block(writer: ShardWriter | InMemory, info: TensorInfo, y: Stored, start: int) -> None:
    """Write elements from `start` on in the file's byte order; `y` may be modified."""
    if isinstance(writer, InMemory):
        return
    if info.big_endian:
        y.byteswap(inplace=True)
    writer.write(info, start * y.itemsize, y.view(np.uint8).data)


def check_slices(info: TensorInfo, layout: Layout, workers: Workers, *, per_slice: bool) -> None:
    """Check that the data kept for each slice of a tensor fits into memory.

    Raises:
        UsageError: it does not; says how much is needed.
    """
    if layout.num_slices <= 1 or layout.num_slices * (QPARAM_BYTES + SUMS_BYTES) <= workers.max_memory:
        return
    for_range = 0 if has_one_pass(layout, blocks_of(info, workers)) else QPARAM_BYTES
    check_memory(info, layout, workers, for_range + (SUMS_BYTES if per_slice else 0))


def check_memory(info: TensorInfo, layout: Layout, workers: Workers, bytes_per_slice: int) -> None:
    """Refuse a tensor whose ranges, or sums per slice, do not fit into memory: they are held for the whole tensor."""
    needed = layout.num_slices * bytes_per_slice
    if needed > workers.max_memory:
        per_channel = "leave out --per-channel, " if bytes_per_slice > QPARAM_BYTES else ""
        least = -(-needed // (1 << 20))
        raise UsageError(
            f"'{escape_name(info.name)}' has {layout.num_slices:,} ranges, for which {least} MiB of memory are needed; "
            f"choose another axis, {per_channel}or give --max-memory {least}MiB or more"
        )
