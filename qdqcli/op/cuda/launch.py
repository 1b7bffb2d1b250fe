"""Launches of the CUDA kernels on arrays in device memory: grid shapes, and loops over what exceeds one launch.

Nothing here waits: everything is enqueued on `stream`, in order.
"""

from typing import NamedTuple

import numpy as np

from qdqcli.op.cuda import quantize as cuda_quantize
from qdqcli.op.cuda import ranges as cuda_range
from qdqcli.op.cuda.indexing import launches
from qdqcli.op.cuda.ranges import COLUMN_THREADS, THREADS, Lines, Runs
from qdqcli.op.cuda.target import DeviceArray, Stream
from qdqcli.op.layout import Elements, Layout, Steps
from qdqcli.op.params import (
    PATTERN,
    STORAGE,
    Codes,
    Op,
    OrderKeyLimits,
    Qparams,
    order_key_limits,
)
from qdqcli.stats.sums import CHUNK_ELEMENTS

KEY: dict[str, type[np.signedinteger]] = {"F32": np.int32, "F64": np.int64, "BF16": np.int32, "F16": np.int32}
"""Types of order keys on the device, where atomic operations do not support 16 bits."""
_SHORT_RUN = 32
"""Shorter runs of slices that recur in every row are measured by columns."""
_RUN_PART = 1 << 14
"""Elements of a run per thread block."""
_BLOCKS_WANTED = 4096
"""Enough blocks to keep any GPU busy."""


class DeviceParams(NamedTuple):
    """The op on some slices of a tensor, with qparams in device memory."""

    layout: Layout
    first_slice: int
    """Slice of column 0 of the qparams."""
    qparams: Qparams
    op: Op


def device_qparams(values: DeviceArray, flags: DeviceArray) -> Qparams:
    """Return qparams as kernels take them, of values (QPARAM_ROWS, slices) and flags (FLAG_ROWS, slices)."""
    return Qparams(values, flags, False, True)


def measure(
    x: DeviceArray, elements: Elements, layout: Layout, first_slice: int, order_keys: DeviceArray, dtype: str,
    stream: Stream,
) -> None:  # fmt: skip
    """Fill `order_keys` (2, slices from `first_slice` on) with the extremes of the elements, ignoring NaN."""
    limits = OrderKeyLimits(*map(KEY[dtype], order_key_limits(dtype)))
    cuda_range.clear_order_keys[_blocks(order_keys.shape[1]), THREADS, stream](order_keys, limits)
    bits, start, stop = x.view(PATTERN[dtype]), elements.start, elements.stop
    if stop <= start:
        return
    steps = layout.steps(first_slice)
    inner, row = steps.inner, steps.row
    if steps.advance == 0 and inner < _SHORT_RUN and layout.num_elements > row:
        _measure_by_columns(bits, elements, steps, limits, order_keys, stream)
        return
    runs_of_row = -(-row // inner)
    first_run = start // row * runs_of_row + start % row // inner
    num_runs = (stop - 1) // row * runs_of_row + (stop - 1) % row // inner + 1 - first_run
    longest = min(inner, row, stop - start)
    parts = -(-longest // _RUN_PART)
    width = min(THREADS, 1 << max(longest // 4, 1).bit_length() - 1)
    runs = Runs(first_run, num_runs, runs_of_row, parts, width)
    blocks = _blocks(num_runs * parts * width)
    cuda_range.measure_runs[blocks, THREADS, stream](bits, elements, runs, steps, limits, order_keys)


def _measure_by_columns(
    bits: DeviceArray, elements: Elements, steps: Steps, limits: OrderKeyLimits, order_keys: DeviceArray, stream: Stream
) -> None:
    width = steps.row * -(-COLUMN_THREADS // steps.row)
    origin = elements.start - elements.start % steps.row
    lines = -(-(elements.stop - origin) // width)
    across = -(-width // COLUMN_THREADS)
    fewest = 16 * (THREADS // COLUMN_THREADS)  # starting a block and its atomics costs as much as some lines
    rows_of_block = max(-(-lines * across // _BLOCKS_WANTED), fewest, -(-lines // 65535))
    down = -(-lines // rows_of_block)
    cuda_range.measure_columns[(across, down), THREADS, stream](
        bits, elements, Lines(origin, width, rows_of_block), steps, limits, order_keys
    )


def decode_order_keys(order_keys: DeviceArray, ranges: DeviceArray, dtype: str, stream: Stream) -> None:
    """Decode keys into `ranges` (2, slices)."""
    cuda_range.decode_order_keys[_blocks(ranges.shape[1]), THREADS, stream](order_keys, STORAGE[dtype](0), ranges)


def make_qparams(ranges: DeviceArray, codes: Codes, op: Op, qparams: Qparams, stream: Stream) -> None:
    """Fill `qparams` from `ranges` (2, slices)."""
    cuda_range.make_qparams[_blocks(ranges.shape[1]), THREADS, stream](ranges, codes, _switched(op), qparams)


def quantize(x: DeviceArray, y: DeviceArray, elements: Elements, params: DeviceParams, stream: Stream) -> None:
    """Quantize and dequantize the elements into `y`."""
    base, start, stop = elements
    for first, last, slice_map in launches(params.layout, start, stop, params.first_slice):
        size = last - first
        cuda_quantize.quantize[_blocks(-(-size // 4)), THREADS, stream](
            x, y, first - base, size, slice_map, params.qparams, _switched(params.op)
        )


def quantize_and_sum(
    x: DeviceArray, y: DeviceArray, start: int, params: DeviceParams, zero: np.floating, sums: DeviceArray,
    stream: Stream, *, keep: bool,
) -> None:  # fmt: skip
    """Quantize, and fill `sums` (chunks, SUM_COLUMNS); x[0] is element `start`, which begins a chunk.

    The type of `zero` is that of the terms.
    """
    for first, last, slice_map in launches(params.layout, start, start + x.size, params.first_slice):
        chunk, chunks = (first - start) // CHUNK_ELEMENTS, -(-(last - first) // CHUNK_ELEMENTS)
        here = slice(first - start, last - start)
        cuda_quantize.quantize_and_sum[chunks, THREADS, stream](
            x[here], y[here] if keep else y, keep, slice_map, params.qparams, _switched(params.op), zero,
            sums[chunk : chunk + chunks],
        )  # fmt: skip


def differentiate(
    gradients: DeviceArray, x: DeviceArray, out: DeviceArray, start: int, layout: Layout, ranges: DeviceArray,
    dtype: str, outside: DeviceArray, stream: Stream,
) -> None:  # fmt: skip
    """Gradient of the op from element `start` on; adds the number of elements outside their range to `outside` (1,)."""
    compute_type = STORAGE[dtype](0)
    for first, last, slice_map in launches(layout, start, start + x.size, 0):
        here = slice(first - start, last - start)
        cuda_quantize.differentiate[_blocks(-(-(last - first) // 4)), THREADS, stream](
            gradients[here], x[here], out[here], slice_map, ranges, compute_type, outside
        )


def _switched(op: Op) -> Op:
    """Return the settings with booleans that kernels ask at run time: compiling takes longer than asking."""
    return Op(bool(op.clamping), bool(op.half_up), op.compute_type)  # type: ignore[arg-type]


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)
