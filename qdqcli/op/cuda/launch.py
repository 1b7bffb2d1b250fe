"""Launches of the CUDA kernels on arrays in device memory: grid shapes, and loops over what exceeds one launch.

Nothing here waits: everything is enqueued on `stream`, in order.
"""

from typing import Any

import numpy as np

from qdqcli.op.cuda import quantize as cuda_quantize
from qdqcli.op.cuda import ranges as cuda_range
from qdqcli.op.cuda.indexing import launches
from qdqcli.op.cuda.ranges import COLUMN_THREADS, THREADS
from qdqcli.op.layout import Layout
from qdqcli.op.params import PATTERN, STORAGE, codes, compute_type_of, float_type, order_key_limits
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.sums import CHUNK_ELEMENTS

DeviceArray = Any
"""An array of `numba.cuda` in device memory, one-dimensional or rows of slices."""
Stream = Any
Settings = tuple[bool, bool, Any]
"""(clamp elements, round mode is HALF_UP, number whose type names the arithmetic)."""

KEY = {"F32": np.int32, "F64": np.int64, "BF16": np.int32, "F16": np.int32}
"""Types of order keys on the device, where atomic operations do not support 16 bits."""
NUM_TABLES = 8
"""Tables that patterns are counted in, 512 KiB each."""

_SHORT_RUN = 32
"""Shorter runs of slices that recur in every row are measured by columns."""
_RUN_PART = 1 << 14
"""Elements of a run per thread block."""
_BLOCKS_WANTED = 4096
"""Enough blocks to keep any GPU busy."""


def measure(
    x: DeviceArray, base: int, start: int, stop: int, layout: Layout, first_slice: int, order_keys: DeviceArray,
    dtype: str, stream: Stream,
) -> None:  # fmt: skip
    """Widen `order_keys` (2, slices from `first_slice` on) by the elements [start, stop); x[0] is element `base`."""
    bits, key = x.view(PATTERN[dtype]), KEY[dtype]
    infinity, nothing = order_key_limits(dtype)
    limits = (key(infinity), key(nothing[0]), key(nothing[1]))
    if stop <= start:
        return
    inner, row, advance = layout.steps
    if advance == 0 and inner < _SHORT_RUN and layout.num_elements > row:
        _measure_by_columns(bits, base, start, stop, inner, row, first_slice, limits, order_keys, stream)
        return
    runs_of_row = -(-row // inner)
    first_run = start // row * runs_of_row + start % row // inner
    num_runs = (stop - 1) // row * runs_of_row + (stop - 1) % row // inner + 1 - first_run
    longest = min(inner, row, stop - start)
    parts = -(-longest // _RUN_PART)
    width = min(THREADS, 1 << max(longest // 4, 1).bit_length() - 1)
    blocks = -(-num_runs * parts * width // THREADS)
    cuda_range.measure_runs[blocks, THREADS, stream](
        bits, base, start, stop, first_run, num_runs, parts, inner, row, runs_of_row, advance, first_slice, *limits,
        width, order_keys,
    )  # fmt: skip


def _measure_by_columns(
    bits: DeviceArray, base: int, start: int, stop: int, inner: int, row: int, first_slice: int,
    limits: tuple[Any, Any, Any], order_keys: DeviceArray, stream: Stream,
) -> None:  # fmt: skip
    width = row * -(-COLUMN_THREADS // row)
    origin = start - start % row
    lines = -(-(stop - origin) // width)
    across = -(-width // COLUMN_THREADS)
    fewest = 16 * (THREADS // COLUMN_THREADS)  # starting a block and its atomics costs as much as some lines
    rows_of_block = max(-(-lines * across // _BLOCKS_WANTED), fewest, -(-lines // 65535))
    down = -(-lines // rows_of_block)
    cuda_range.measure_columns[(across, down), THREADS, stream](
        bits, base, start, stop, origin, width, rows_of_block, inner, row, first_slice, *limits, order_keys
    )


def clear_order_keys(order_keys: DeviceArray, dtype: str, stream: Stream) -> None:
    """Set `order_keys` (2, slices) to the sentinels of slices without elements other than NaN."""
    kind, (_, nothing) = KEY[dtype], order_key_limits(dtype)
    cuda_range.clear_order_keys[_blocks(order_keys.shape[1]), THREADS, stream](
        order_keys, kind(nothing[0]), kind(nothing[1])
    )


def decode_order_keys(order_keys: DeviceArray, ranges: DeviceArray, dtype: str, stream: Stream) -> None:
    """Decode keys into `ranges` (2, slices)."""
    cuda_range.decode_order_keys[_blocks(ranges.shape[1]), THREADS, stream](order_keys, STORAGE[dtype](0), ranges)


def make_qparams(
    ranges: DeviceArray, spec: QuantSpec, dtype: str, qparams: DeviceArray, flags: DeviceArray, stream: Stream
) -> None:
    """Fill `qparams` (QPARAM_ROWS, slices) and `flags` (FLAG_ROWS, slices) from `ranges` (2, slices)."""
    compute_type = compute_type_of(dtype, spec.compute_dtype)
    limits = codes(spec, compute_type, float_type(dtype))
    cuda_range.make_qparams[_blocks(ranges.shape[1]), THREADS, stream](
        ranges, *limits, bool(spec.is_range_given), compute_type, qparams, flags
    )


def quantize(
    x: DeviceArray, y: DeviceArray, base: int, start: int, stop: int, layout: Layout, first_slice: int,
    qparams: DeviceArray, flags: DeviceArray, settings: Settings, stream: Stream,
) -> None:  # fmt: skip
    """Quantize and dequantize the elements [start, stop) into `y`; x[0] and y[0] are element `base`."""
    for first, last, slice_map in launches(layout, start, stop, first_slice):
        size = last - first
        cuda_quantize.quantize[-(-size // (4 * THREADS)), THREADS, stream](
            x, y, first - base, size, slice_map, qparams, flags, *settings
        )


def quantize_and_sum(
    x: DeviceArray, y: DeviceArray, start: int, stop: int, layout: Layout, first_slice: int, qparams: DeviceArray,
    flags: DeviceArray, settings: Settings, zero: np.floating[Any], sums: DeviceArray, stream: Stream, *, keep: bool,
) -> None:  # fmt: skip
    """Quantize, and fill `sums` (chunks, SUM_COLUMNS); x[0] is element `start`, which begins a chunk.

    The type of `zero` is that of the terms.
    """
    for first, last, slice_map in launches(layout, start, stop, first_slice):
        chunk, chunks = (first - start) // CHUNK_ELEMENTS, -(-(last - first) // CHUNK_ELEMENTS)
        here = slice(first - start, last - start)
        cuda_quantize.quantize_and_sum[chunks, THREADS, stream](
            x[here], y[here] if keep else y, keep, last - first, slice_map, qparams, flags, *settings, zero,
            sums[chunk : chunk + chunks],
        )  # fmt: skip


def sum_slices(
    x: DeviceArray, y: DeviceArray, base: int, start: int, stop: int, layout: Layout, first_slice: int,
    qparams: DeviceArray, sums: DeviceArray, stream: Stream,
) -> None:  # fmt: skip
    """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""
    num_slices = sums.shape[0]
    cuda_quantize.sum_slices[_blocks(num_slices), THREADS, stream](
        x, y, base, start, stop, *layout.steps, first_slice, num_slices, qparams, sums
    )


def count_patterns(x: DeviceArray, tables: DeviceArray, stream: Stream) -> None:
    """Count the patterns of 16-bit elements into `tables` (NUM_TABLES, 65536) of uint64."""
    blocks = min(-(-x.shape[0] // THREADS), _BLOCKS_WANTED)
    cuda_quantize.count_patterns[blocks, THREADS, stream](x.view(np.uint16), tables)


def differentiate(
    gradients: DeviceArray, x: DeviceArray, out: DeviceArray, base: int, start: int, stop: int, layout: Layout,
    ranges: DeviceArray, dtype: str, outside: DeviceArray, stream: Stream,
) -> None:  # fmt: skip
    """Gradient of the op for [start, stop); adds the number of elements outside their range to `outside` (1,)."""
    compute_type = compute_type_of(dtype, ComputeDType.NATIVE)
    for first, last, slice_map in launches(layout, start, stop, 0):
        size = last - first
        cuda_quantize.differentiate[-(-size // (4 * THREADS)), THREADS, stream](
            gradients, x, out, first - base, size, slice_map, ranges, compute_type, outside
        )


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)


def settings_of(spec: QuantSpec, dtype: str) -> Settings:
    """Return the kernel settings other than the qparams."""
    return bool(spec.is_range_given), spec.round_mode is RoundMode.HALF_UP, compute_type_of(dtype, spec.compute_dtype)
