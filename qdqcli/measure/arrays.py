"""Op and error statistics on an array in memory, with the results of `qdq` on a file."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Self, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from qdqcli.errors import DTypeError, SpecError
from qdqcli.measure.blocks import Block, has_histogram
from qdqcli.measure.estimate import count_patterns, estimate_ranges
from qdqcli.measure.given_range import GivenRange, given_ranges
from qdqcli.measure.sums import BlockPart, count_degenerate, error_sums, part_of
from qdqcli.measure.tensor import measured_by_patterns, measured_overall_range, set_extremes
from qdqcli.measure.workers import Workers
from qdqcli.op.arrays import Array, aligned, as_array
from qdqcli.op.given_ranges import real_numbers
from qdqcli.op.layout import Layout
from qdqcli.op.on_device import is_on_device
from qdqcli.op.params import (
    STORAGE,
    Floats,
    OrderKeys,
    Stored,
    cuts,
    empty_order_keys,
    merge_order_keys,
    ranges_of_order_keys,
)
from qdqcli.op.spec import DEFAULT_ESTIMATOR, ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.metrics import ErrorStats
from qdqcli.stats.sums import CHUNK_ELEMENTS, ErrorSums
from qdqcli.tensors.tensor import DTYPES, TensorInfo

BLOCK_ELEMENTS = 1 << 21
"""Block of a thread: whole chunks."""


class Settings(TypedDict, total=False):
    """The fields of `QuantSpec`, as keywords."""

    num_bits: int
    signed_input: bool
    narrow_range: bool
    round_mode: RoundMode | str
    axis: int
    group_size: int | None
    ragged_groups: bool
    compute_dtype: ComputeDType | str
    estimator: str
    percentile: float | None


def quantize_and_measure(
    input: Array,  # noqa: A002  # as the op names it
    spec: QuantSpec | None = None,
    given_range: GivenRange | None = None,
    **settings: Unpack[Settings],
) -> tuple[NDArray[Any], ErrorStats]:
    """Quantize and dequantize `input`, and sum the errors, bit for bit as `qdq run` does with a file.

    Args:
        input: bfloat16 (ml_dtypes), float16, float32 or float64, any shape; it is not modified.
        spec: the settings; by default 8 bits, one range. `compute_dtype` is native by default here, float32 on the
            command line.
        given_range: (input_min, input_max) instead of a measured range, or the one in `spec`: scalars, or one value
            per channel or group each.
        **settings: fields of `QuantSpec`, in place of those of `spec`: `num_bits=4, axis=0`.

    Returns:
        A new C-contiguous array of the input's shape and dtype, and the sums with the metrics that follow from them:
        `sums.sqnr_db`, `sums.metrics()`. The same bits for every number of threads.

    Raises:
        SpecError: (a ValueError) an attribute or a range does not fit the input.
        DTypeError: (a TypeError) the input has another dtype, or is on a device.
    """
    if is_on_device(input):
        raise DTypeError("the input is on a device; statistics are for arrays in memory, copy it there first")
    x, dtype = as_array(input)
    spec = replace(spec or QuantSpec(), **cast(dict[str, Any], settings))  # accepts enum names too
    if given_range is not None:
        spec = replace(spec, range_given=True)
    elif spec.range_given:
        given_range = spec.given_range
        if given_range is None:
            raise SpecError("the range is to be given: pass given_range")
    layout = Layout.of(x.shape, spec)
    _check_range(given_range, layout)
    stored = np.ascontiguousarray(x).reshape(-1).view(STORAGE[dtype])
    y = aligned(stored.size, stored.dtype)
    with Workers() as workers:
        sums = fake_quantize_and_measure(stored, y, layout, spec, given_range, dtype, workers)
    return y.view(x.dtype).reshape(x.shape), ErrorStats(*sums)


def _check_range(given_range: GivenRange | None, layout: Layout) -> None:
    for name, end in zip(("input_min", "input_max"), given_range or (), strict=False):
        values = real_numbers(name, end)
        if values.ndim > 1 or (values.ndim and values.size != layout.num_ranges):
            raise SpecError(f"{name} has shape {list(values.shape)}; it takes a scalar or {layout.num_ranges} values")


def fake_quantize_and_measure(
    x: Stored, y: Stored, layout: Layout, spec: QuantSpec, given_range: GivenRange | None, dtype: str, workers: Workers
) -> ErrorSums:
    """Like `quantize_and_measure`, into an existing `y`; `y` begins at a multiple of VECTOR_SIZE elements."""
    if not x.size:
        return ErrorSums()
    blocks = [(start, min(start + BLOCK_ELEMENTS, x.size)) for start in range(0, x.size, BLOCK_ELEMENTS)]
    if given_range is None and spec.estimator == DEFAULT_ESTIMATOR and _fits_one_pass(layout):
        parts = workers.map(partial(_finish_block, x, y, layout, spec, dtype, workers), blocks)
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            slices = [part.slices for part in known]
            return error_sums((part.rows for part in known), x.size, count_degenerate(slices))
    info = TensorInfo("input", DTYPES[dtype], x.shape, "", 0, x.nbytes)
    if has_histogram(info, layout):
        return _measure_by_patterns(x, y, layout, spec, given_range, info, workers)
    ranges = given_ranges(given_range, 0, layout.num_slices, dtype, spec.compute_dtype)
    if ranges is None:
        ranges = _measured_ranges(x, layout, spec, info, workers)
    params = workers.backend.quant_params(ranges, spec, layout, 0, dtype)

    def finish(block: Block) -> NDArray[np.float64]:
        start, stop = block
        return workers.backend.quantize_and_sum(
            x[start:stop], y[start:stop], start, start, stop, layout, params, keep=True, total_bytes=y.nbytes
        )

    rows = workers.map(finish, blocks)
    set_extremes(rows[0], measured_overall_range(spec, ranges), x, dtype, workers)
    return error_sums(rows, x.size, int(params.degenerate.sum()))


def _measure_by_patterns(
    x: Stored,
    y: Stored,
    layout: Layout,
    spec: QuantSpec,
    given_range: GivenRange | None,
    info: TensorInfo,
    workers: Workers,
) -> ErrorSums:
    """Measure a large 16-bit array with one range from its pattern counts, as for a file."""
    histogram = count_patterns(_Memory(x), info, workers)
    measured, params = measured_by_patterns(histogram, spec, given_range, layout, info, workers)
    bounds = cuts(x.size, 2 * workers.num_threads)
    workers.map(lambda part: workers.backend.quantize(x, y, 0, *part, layout, params), list(pairwise(bounds)))
    return measured.sums


def _fits_one_pass(layout: Layout) -> bool:
    """Tell whether each slice is contiguous and much shorter than a block."""
    return layout.is_contiguous and layout.num_slices > 1 and 4 * layout.inner <= BLOCK_ELEMENTS


def _finish_block(
    x: Stored, y: Stored, layout: Layout, spec: QuantSpec, dtype: str, workers: Workers, block: Block
) -> BlockPart | None:
    """Process one block; None where its elements or its qparams need the general kernels."""
    start, stop = block
    lo, hi = layout.whole_slices(start, stop)
    done = workers.backend.fake_quantize_and_sum(
        x[lo:hi], y[lo:hi], lo, start, stop, layout, [spec], dtype, keep=True, total_bytes=y.nbytes
    )
    return None if done is None else part_of(done[0], continues=lo < start)


def _measured_ranges(x: Stored, layout: Layout, spec: QuantSpec, info: TensorInfo, workers: Workers) -> Floats:
    """Return the measured range bounds (2, slices)."""
    dtype = info.dtype.name
    if spec.estimator != DEFAULT_ESTIMATOR or _fits_one_pass(layout):
        return estimate_ranges(spec, _Memory(x), info, layout, workers)

    def measure(block: Block) -> OrderKeys:
        start, stop = block
        order_keys = empty_order_keys(layout.num_slices, dtype)
        workers.backend.measure_range(x[start:stop], start, stop, layout, 0, order_keys, dtype)
        return order_keys

    # Few parts: each merges the extremes of all slices.
    bounds = cuts(x.size, min(2 * workers.num_threads, -(-x.size // CHUNK_ELEMENTS)))
    first, *others = workers.map(measure, list(pairwise(bounds)))
    for order_keys in others:
        merge_order_keys(first, order_keys)
    return ranges_of_order_keys(first, dtype)


class _Memory:
    """Adapter that reads an array like a tensor of a file."""

    def __init__(self, x: Stored) -> None:
        self._bytes = x.view(np.uint8).data

    def read_into(self, _tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        buffer[:] = self._bytes[start : start + buffer.nbytes]

    def read_batch(self, _first: TensorInfo, _buffer: memoryview) -> bool:
        return False

    def read_ahead(self, _tensors: Iterable[TensorInfo], _max_bytes: int) -> None: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None: ...
