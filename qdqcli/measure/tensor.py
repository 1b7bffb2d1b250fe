"""One tensor, block by block: range, qparams, fake quantization, error sums. Memory does not grow with the tensor.

A block is whole chunks of the tensor. Where every slice is short, a block is read once together with the rest of the
slices at its edges, and all happens in the buffer. Otherwise a first pass over all blocks finds the ranges and a second
one reads them again, mostly from the page cache. A large 16-bit tensor with one range is measured in a single pass,
from its pattern counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import (
    Block,
    blocks_of,
    check_slices,
    has_histogram,
    has_one_pass,
    read_block,
    write_block,
)
from qdqcli.measure.estimate import count_patterns, estimate_ranges, estimator_of, ranges_in_memory
from qdqcli.measure.given_range import GivenRange, given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import (
    BlockPart,
    Measurement,
    OverallRange,
    block_slices,
    count_degenerate,
    error_sums,
    overall_range_of,
    part_of,
    slice_sums,
)
from qdqcli.measure.workers import Workers
from qdqcli.op import columns
from qdqcli.op.columns import empty_sums
from qdqcli.op.histogram import PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, QuantParams, Stored
from qdqcli.op.spec import DEFAULT_ESTIMATOR, QuantSpec
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class TensorJob:
    """A tensor of an open shard and the work on it."""

    info: TensorInfo
    spec: QuantSpec
    given_range: GivenRange | None = None
    """Set with `spec.range_given`."""
    per_slice: bool = False
    """Also sum the errors of each slice."""
    reader: ShardReader
    writer: ShardWriter | None = None
    """None: only measure."""
    on_bytes: Callable[[int], None] = lambda _: None
    """Progress callback: receives the bytes of each finished block; called from any thread."""


def quantize_tensor(job: TensorJob, workers: Workers) -> Measurement:
    """Execute the job: the same bits for every number of threads and block size."""
    layout = layout_of(job.info, job.spec)
    if not layout.num_elements:
        return Measurement(sums=ErrorSums(), num_slices=0)
    if layout.num_slices == 1 and job.per_slice:  # the tensor is its only slice
        measured = quantize_tensor(replace(job, per_slice=False), workers)
        return measured._replace(slice_sums=[measured.sums])
    blocks = blocks_of(job.info, workers)
    if has_histogram(job.info, layout):
        return _quantize_by_patterns(job, layout, workers, blocks)
    check_slices(job.info, layout, workers, per_slice=job.per_slice)
    if has_one_pass(layout, blocks):
        return measured_in_one_pass(layout, workers.map(partial(_finish_block, job, layout, workers), blocks))
    return _quantize_in_two_passes(job, layout, workers, blocks)


def _quantize_by_patterns(job: TensorJob, layout: Layout, workers: Workers, blocks: Sequence[Block]) -> Measurement:
    """Process a large 16-bit tensor with one range: a single read counts its patterns, which give all statistics."""
    only_measured = job.on_bytes if job.writer is None else lambda _: None
    histogram = count_patterns(job.reader, job.info, workers, only_measured)
    measured, params = measured_by_patterns(histogram, job.spec, job.given_range, layout, job.info, workers)
    if job.writer is not None:
        workers.map(partial(_write_block_quantized, job, layout, workers, params), blocks)
    return measured


def measured_by_patterns(
    histogram: PatternHistogram,
    spec: QuantSpec,
    given_range: GivenRange | None,
    layout: Layout,
    info: TensorInfo,
    workers: Workers,
) -> tuple[Measurement, QuantParams]:
    """Return the measurement of a tensor with these pattern counts, and its qparams."""
    dtype = info.dtype.name
    ranges = given_ranges(given_range, 0, 1, dtype, spec.compute_dtype)
    if ranges is None:
        ranges = estimator_of(spec, dtype, workers).of_patterns(histogram)
    params = workers.backend.quant_params(ranges, spec, layout, 0, dtype)
    sums = error_sums([histogram.error_sums(params)], layout.num_elements, int(params.degenerate.sum()))
    return Measurement(sums=sums, overall_range=overall_range_of(ranges), num_slices=1), params


def _write_block_quantized(job: TensorJob, layout: Layout, workers: Workers, params: QuantParams, block: Block) -> None:
    """Write one block; its range and statistics are already known."""
    x = read_block(job.reader, job.info, workers, "input", block)
    y = _output_scratch(job, workers, x)
    workers.backend.quantize(x, y, block[0], *block, layout, params)
    _finish(job, y, 0, block)


def _quantize_in_two_passes(job: TensorJob, layout: Layout, workers: Workers, blocks: Sequence[Block]) -> Measurement:
    dtype = job.info.dtype.name
    ranges = given_ranges(job.given_range, 0, layout.num_slices, dtype, job.spec.compute_dtype)
    if ranges is None:
        ranges = estimate_ranges(job.spec, job.reader, job.info, layout, workers)
    params = workers.backend.quant_params(ranges, job.spec, layout, 0, dtype)
    slice_rows = empty_sums(layout.num_slices) if job.per_slice else None
    finish = partial(
        _apply_to_block, job, layout, workers, params, measured_overall_range(job.spec, ranges), slice_rows
    )
    # With slice sums the blocks run in sequence: a slice's elements are added in the tensor's order.
    rows = workers.map(finish, blocks) if slice_rows is None else [workers.map(finish, [block])[0] for block in blocks]
    return measured_in_two_passes(layout, rows, ranges, params, slice_rows)


def measured_in_two_passes(
    layout: Layout,
    rows: Sequence[NDArray[np.float64]],
    ranges: Floats,
    params: QuantParams,
    slice_rows: NDArray[np.float64] | None = None,
) -> Measurement:
    """Return the measurement of a tensor from the sums of its blocks, whose qparams were known."""
    return Measurement(
        sums=error_sums(rows, layout.num_elements, int(params.degenerate.sum())),
        overall_range=overall_range_of(ranges),
        num_slices=layout.num_slices,
        slice_sums=slice_sums(layout, slice_rows, params.degenerate),
    )


def measured_in_one_pass(layout: Layout, parts: Sequence[BlockPart]) -> Measurement:
    """Return the measurement of a tensor whose blocks measured the ranges of their slices."""
    slices = [part.slices for part in parts]
    rows = [block.rows for block in slices if block.rows is not None]
    degenerate = [block.degenerate for block in slices if block.degenerate is not None]
    return Measurement(
        sums=error_sums((part.rows for part in parts), layout.num_elements, count_degenerate(slices)),
        overall_range=overall_range_of(np.array([block.overall_range for block in slices]).T),
        num_slices=layout.num_slices,
        slice_sums=slice_sums(layout, np.concatenate(rows), np.concatenate(degenerate)) if rows else None,
    )


def _finish_block(job: TensorJob, layout: Layout, workers: Workers, block: Block) -> BlockPart:
    """Process one block of a tensor with short slices, from one read."""
    start, stop = block
    extended = layout.whole_slices(start, stop)
    x = read_block(job.reader, job.info, workers, "input", extended)
    y = _output_scratch(job, workers, x)
    done = None
    if job.given_range is None and not job.per_slice and job.spec.estimator == DEFAULT_ESTIMATOR:
        done = workers.backend.fake_quantize_and_sum(
            x, y, extended[0], start, stop, layout, [job.spec], job.info.dtype.name, keep=job.writer is not None
        )
    if done is None:
        part = _finish_step_by_step(job, layout, workers, x, y, extended, block)
    else:
        part = part_of(done[0], continues=extended[0] < start)
    _finish(job, y, start - extended[0], block)
    return part


def _finish_step_by_step(
    job: TensorJob, layout: Layout, workers: Workers, x: Stored, y: Stored, extended: Block, block: Block
) -> BlockPart:
    """Process a block step by step, for a given or estimated range, non-finite elements, and sums per slice."""
    (lo, hi), (start, stop) = extended, block
    dtype = job.info.dtype.name
    first, num_slices = layout.slice_of(lo), layout.slice_of(hi - 1) + 1 - layout.slice_of(lo)
    ranges = given_ranges(job.given_range, first, num_slices, dtype, job.spec.compute_dtype)
    if ranges is None:
        ranges = ranges_in_memory(estimator_of(job.spec, dtype, workers), x, lo, layout)
    params = workers.backend.quant_params(ranges, job.spec, layout, first, dtype)
    rows = workers.backend.quantize_and_sum(x, y, lo, start, stop, layout, params, keep=job.writer is not None)
    set_extremes(rows, measured_overall_range(job.spec, ranges), x, dtype, workers)
    slice_rows = None
    if job.per_slice:
        slice_rows = empty_sums(num_slices)
        _add_to_slices(job, layout, workers, params, x, y, extended, slice_rows)
    return BlockPart(rows=rows, slices=block_slices(ranges, params.degenerate, slice_rows, continues=lo < start))


def _apply_to_block(
    job: TensorJob,
    layout: Layout,
    workers: Workers,
    params: QuantParams,
    overall_range: OverallRange | None,
    slice_rows: NDArray[np.float64] | None,
    block: Block,
) -> NDArray[np.float64]:
    """Process one block in the second pass, where the qparams of all slices are known; return its rows of sums."""
    start, stop = block
    x = read_block(job.reader, job.info, workers, "input", block)
    y = _output_scratch(job, workers, x)
    rows = workers.backend.quantize_and_sum(x, y, start, start, stop, layout, params, keep=job.writer is not None)
    set_extremes(rows, overall_range, x, job.info.dtype.name, workers)
    if slice_rows is not None:
        _add_to_slices(job, layout, workers, params, x, y, block, slice_rows)
    _finish(job, y, 0, block)
    return rows


def _add_to_slices(
    job: TensorJob,
    layout: Layout,
    workers: Workers,
    params: QuantParams,
    x: Stored,
    y: Stored,
    extended: Block,
    slice_rows: NDArray[np.float64],
) -> None:
    """Add the elements `x` of `extended` to the sums of their slices; `y` holds only the block's elements so far."""
    whole = y if job.writer is not None else np.empty_like(x)
    workers.backend.quantize(x, whole, extended[0], *extended, layout, params)
    workers.backend.sum_slices(x, whole, extended[0], *extended, layout, params, slice_rows)


def _output_scratch(job: TensorJob, workers: Workers, x: Stored) -> Stored:
    """Return an output buffer for everything that was read, empty where nothing is written."""
    return workers.buffer("output", x.dtype.type, 0 if job.writer is None else len(x))


def _finish(job: TensorJob, y: Stored, begin: int, block: Block) -> None:
    """Write the block's elements, which begin at y[begin], and report progress."""
    start, stop = block
    job.on_bytes((stop - start) * y.itemsize)
    if job.writer is not None:
        write_block(job.writer, job.info, y[begin : begin + stop - start], start)


def measured_overall_range(spec: QuantSpec, ranges: Floats) -> OverallRange | None:
    """Return the extremes of the elements, if measuring the ranges found them; infinite bounds hide finite extremes."""
    lo, hi = overall_range_of(ranges)
    return (lo, hi) if not spec.is_range_given and isfinite(lo) and isfinite(hi) else None


def set_extremes(
    rows: NDArray[np.float64], overall_range: OverallRange | None, x: Stored, dtype: str, workers: Workers
) -> None:
    """Store the extremes of the finite elements in the first row: they merge, so any row will do."""
    rows[0, [columns.INPUT_MIN, columns.INPUT_MAX]] = (
        workers.backend.extremes(x, dtype) if overall_range is None else overall_range
    )
