"""CPU dispatch for a range of a tensor stored uncompressed in a file: chooses the kernel that does its own reads.

Functions that return an int return the element up to which all succeeded; errors are recorded in `io_status`.
"""

import numpy as np
from numpy.typing import NDArray

from qdqcli.op.columns import empty_sums
from qdqcli.op.cpu import dispatch as cpu
from qdqcli.op.cpu import files as cpu_files
from qdqcli.op.cpu.dispatch import is_columnar, qparams_for_sums, scratch_for_sums, sum_place
from qdqcli.op.file_range import Batch, BatchSums, BlockSums, FileRange, Stored
from qdqcli.op.jit.vector import VECTOR_SIZE
from qdqcli.op.layout import Layout
from qdqcli.op.params import (
    FLAG_ROWS,
    PATTERN,
    QPARAM_ROWS,
    OrderKeys,
    QuantParams,
    codes,
    compute_type_of,
    empty_order_keys,
    float_type,
    half_up,
    merge_columns,
    order_key_limits,
)
from qdqcli.op.spec import QuantSpec


def fake_quantize_and_sum_each(batch: Batch, max_slices: int, spec: QuantSpec, dtype: str) -> BatchSums:
    """Measure, quantize and sum many tensors of at most `max_slices` slices each, from one read."""
    x, count = batch.x, len(batch.places)
    capacity = -(-max_slices // VECTOR_SIZE) * VECTOR_SIZE
    bits, number, compute_type = x.view(PATTERN[dtype]), float_type(dtype), compute_type_of(dtype, spec.compute_dtype)
    order_keys, ranges = np.empty((2, capacity), bits.dtype), np.empty((2, capacity), number)
    qparams, flags = np.empty((QPARAM_ROWS, capacity), number), np.empty((FLAG_ROWS, capacity), np.bool_)
    sums, num_degenerate, is_done = empty_sums(count), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    cpu_files.fake_quantize_and_sum_each(
        batch.source, batch.sink, batch.offset, x, bits, batch.y, batch.places,
        *order_key_limits(dtype), *codes(spec, compute_type, number), half_up(spec), compute_type, order_keys, ranges,
        qparams, flags, *scratch_for_sums(x), sums, num_degenerate, is_done, batch.io_status,
    )  # fmt: skip
    return BatchSums(sums=sums, num_degenerate=num_degenerate, is_done=is_done)


def measure_range(file_range: FileRange, layout: Layout, order_keys: OrderKeys, dtype: str) -> int:
    """Widen the `order_keys` (2, slices) of the whole tensor."""
    x, limits = file_range.x.view(PATTERN[dtype]), order_key_limits(dtype)
    if not is_columnar(layout):
        place = (file_range.start, file_range.stop, *layout.steps, 0)
        return int(cpu_files.measure_range(file_range.source, x, *place, *limits, order_keys, file_range.io_status))
    by_column = empty_order_keys(layout.row, dtype)
    done = int(
        cpu_files.measure_columns(
            file_range.source,
            x,
            file_range.start,
            file_range.stop,
            layout.row,
            *limits,
            by_column,
            file_range.io_status,
        )
    )
    merge_columns(order_keys, by_column, np.arange(layout.row) // layout.inner)
    return done


def count_patterns(file_range: FileRange, tables: NDArray[np.uint32]) -> int:
    """Count the 16-bit patterns into `tables` (2, 65536)."""
    words = file_range.x[: file_range.x.size // 4 * 4].view(np.uint64)
    return int(
        cpu_files.count_patterns(
            file_range.source, words, file_range.start, file_range.stop, tables, file_range.io_status
        )
    )


def quantize(file_range: FileRange, layout: Layout, params: QuantParams) -> int:
    """Quantize and dequantize from file to file, with one range."""
    settings = (params.clamping, params.half_up, params.compute_type)
    place = (file_range.start, file_range.stop, *layout.steps, 0, params.qparams, params.flags)
    return int(
        cpu_files.quantize(
            file_range.source, file_range.sink, file_range.x, file_range.y, *place, *settings, file_range.io_status
        )
    )


def quantize_and_sum(file_range: FileRange, layout: Layout, params: QuantParams, sums: NDArray[np.float64]) -> int:
    """Quantize and fill `sums` (chunks, SUM_COLUMNS), file to file; ABS_ERROR is not finite where an element is not."""
    place = sum_place(file_range.start, file_range.start, file_range.stop, layout, params)[1:]
    done = cpu_files.quantize_and_sum(
        file_range.source, file_range.sink, file_range.x, file_range.y, *place, *qparams_for_sums(params),
        params.clamping, params.half_up, params.compute_type, *scratch_for_sums(file_range.x), sums,
        file_range.io_status,
    )  # fmt: skip
    return int(done)


def fake_quantize_and_sum(
    file_range: FileRange, x: Stored, y: Stored, base: int, layout: Layout, spec: QuantSpec, dtype: str, *, keep: bool
) -> BlockSums | None:
    """`cpu.fake_quantize_and_sum` from file to file; `x` and `y` are scratch buffers for its slices."""
    return cpu.fake_quantize_and_sum(
        x, y, base, file_range.start, file_range.stop, layout, spec, dtype, keep=keep,
        source=file_range.source, sink=file_range.sink, io_status=file_range.io_status,
    )  # fmt: skip
