"""One tensor, block by block: range, grid, quantize-dequantize, error sums. Memory does not grow with the tensor.

A block is whole chunks of the tensor. Where every slice is short, a block is read once together with the rest of the
slices at its edges, and all happens in the buffer. Otherwise a first pass over all blocks finds the ranges and a second
one reads them again, from the page cache as a rule. A large 16-bit tensor with one range needs no second pass to be
measured: the counts of its patterns tell all.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from math import isfinite, isnan, nan
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qdqcli.errors import UsageError
from qdqcli.op import cpu_quantize as columns
from qdqcli.op import cpu_spans
from qdqcli.op.cpu import BlockSums, requantize_and_sum
from qdqcli.op.cpu_quantize import empty_sums
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, QuantParams, float_type, in_arithmetic, like_of
from qdqcli.op.spec import DEFAULT_ESTIMATOR, ComputeDType, QuantSpec
from qdqcli.run.blocks import Block, blocks_of, check_trouble, read_block, span_of, write_block
from qdqcli.run.estimate import count_patterns, ends_in_memory, estimate_ends, estimator_of, has_histogram
from qdqcli.run.region import Region, Regions
from qdqcli.run.stored_layout import layout_of
from qdqcli.run.workers import Workers
from qdqcli.stats.sums import CHUNK_ELEMENTS, ErrorSums, Expansion, expansion
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.message import escape_name
from qdqcli.tensors.tensor import TensorInfo

Hull = tuple[float, float]
"""The smallest of some minima and the largest of their maxima; NaN where there is none."""
GivenRange = tuple[ArrayLike, ArrayLike]
"""input_min and input_max: scalars for every slice, or vectors with one value each."""
GRID_BYTES = 64
"""Memory for the range and the grid of one slice."""


@dataclass(frozen=True, kw_only=True)
class TensorJob:
    """A tensor of an opened shard and what to do with it."""

    info: TensorInfo
    spec: QuantSpec
    given_range: GivenRange | None = None
    """Where `spec.range_given`."""
    per_slice: bool = False
    """Also sum the errors of each slice."""
    reader: ShardReader
    writer: ShardWriter | None = None
    """None: only measure."""
    on_bytes: Callable[[int], None] = lambda _: None
    """Told of the bytes of each finished block, from any thread."""
    regions: Regions | None = None
    """Where the output becomes durable region by region; not with `per_slice`."""


class Measurement(NamedTuple):
    """What was found out about one tensor."""

    sums: ErrorSums
    num_slices: int
    hull: Hull = (nan, nan)
    """Of the ranges of all slices."""
    slice_sums: Sequence[ErrorSums] | None = None

    @property
    def input_min(self) -> float | None:
        """The lower end of the hull; None where no slice has a number."""
        return None if isnan(self.hull[0]) else self.hull[0]

    @property
    def input_max(self) -> float | None:
        """The upper end."""
        return None if isnan(self.hull[1]) else self.hull[1]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one block adds to the measurement."""

    rows: NDArray[np.float64]
    """(chunks, SUM_COLUMNS)."""
    slices: "_BlockSlices | None" = None
    """Where slices are short and the block alone knows of them."""
    degenerate: Sequence[int] = ()
    """Else, where outputs are not finite: slices that are degenerate as far as the block's end, or further, shows."""

    def to_json(self) -> dict[str, Any]:
        """For a run that resumes; sums of each slice are not kept."""
        slices = None if self.slices is None else asdict(self.slices)
        return {"rows": b64encode(self.rows.tobytes()).decode(), "slices": slices, "degenerate": self.degenerate}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse."""
        rows = np.frombuffer(b64decode(data["rows"])).reshape(-1, columns.SUM_COLUMNS)
        slices = data["slices"] and _BlockSlices(**data["slices"])
        return cls(rows=rows, slices=slices, degenerate=data["degenerate"])


@dataclass(frozen=True, kw_only=True)
class _BlockSlices:
    """The slices that begin in a block, and the first if it began in the block before."""

    hull: Hull
    """Of their ranges; NaN where none has a number."""
    num_degenerate: int
    """Of those that begin here, as far as their elements in this block show."""
    head_is_degenerate: bool
    """The slice that began in the block before is."""
    tail_is_degenerate: bool
    """The last slice is."""
    rows: NDArray[np.float64] | None
    """(slices that begin here, SUM_COLUMNS), where they are summed; the whole of each."""
    degenerate: NDArray[np.bool_] | None
    """(slices that begin here,), likewise."""


def quantize_tensor(job: TensorJob, workers: Workers) -> Measurement:
    """Do the job: the same bits for every number of threads and size of block."""
    layout = layout_of(job.info, job.spec)
    if not layout.num_elements:
        return Measurement(sums=ErrorSums(), num_slices=0)
    if layout.num_slices == 1 and job.per_slice:  # the tensor is its only slice
        measured = quantize_tensor(replace(job, per_slice=False), workers)
        return measured._replace(slice_sums=[measured.sums])
    blocks = blocks_of(job.info, workers)
    if has_histogram(job.info, layout):
        return _quantize_by_patterns(job, layout, workers, blocks)
    one_pass = layout.is_contiguous and (len(blocks) == 1 or 4 * layout.inner <= blocks[0][1])
    for_sums = 3 * 8 * columns.SUM_COLUMNS if job.per_slice else 0
    check_memory(job.info, layout, workers, (0 if one_pass else GRID_BYTES) + for_sums)
    return (_quantize_in_one_pass if one_pass else _quantize_in_two_passes)(job, layout, workers, blocks)


def _quantize_by_patterns(job: TensorJob, layout: Layout, workers: Workers, blocks: Sequence[Block]) -> Measurement:
    """A large 16-bit tensor with one range: one read counts its patterns, from which all else follows."""
    dtype = job.info.dtype.name
    only_measured = job.on_bytes if job.writer is None else lambda _: None
    histogram = count_patterns(job.reader, job.info, workers, only_measured)
    ends = given_ends(job.given_range, 0, 1, dtype, job.spec.compute_dtype)
    if ends is None:
        ends = estimator_of(job.spec, dtype, workers).of_patterns(histogram)
    params = workers.backend.quant_params(ends, job.spec, layout, 0, dtype)
    rows = histogram.error_sums(params)
    if job.writer is not None:
        _map_blocks(job, workers, "patterns", partial(_write_block_quantized, job, layout, workers, params), blocks)
    return Measurement(
        sums=error_sums(rows.tolist(), layout.num_elements, int(params.degenerate.sum())),
        hull=_hull_of(ends),
        num_slices=1,
    )


def _write_block_quantized(
    job: TensorJob, layout: Layout, workers: Workers, params: QuantParams, block: Block
) -> _Part:
    """Write one block; all that is to be known of it is known already."""
    nothing = _Part(rows=empty_sums(0))
    span = span_of(job.reader, job.writer, job.info, workers, block)
    if span is not None:
        done = cpu_spans.quantize(span, layout, params)
        check_trouble(span.trouble, job.reader, job.writer, job.info)
        if done == span.stop:
            job.on_bytes(2 * (block[1] - block[0]))
            return nothing
    x = read_block(job.reader, job.info, workers, "input", block)
    y = _room_for_output(job, workers, x)
    workers.backend.quantize(x, y, block[0], *block, layout, params)
    _finish(job, y, 0, block)
    return nothing


def _quantize_in_two_passes(job: TensorJob, layout: Layout, workers: Workers, blocks: Sequence[Block]) -> Measurement:
    dtype = job.info.dtype.name
    ends = given_ends(job.given_range, 0, layout.num_slices, dtype, job.spec.compute_dtype)
    if ends is None:
        ends = estimate_ends(job.spec, job.reader, job.info, layout, workers)
    params = workers.backend.quant_params(ends, job.spec, layout, 0, dtype)
    slice_rows = empty_sums(layout.num_slices) if job.per_slice else None
    finish = partial(_apply_to_block, job, layout, workers, params, _measured_hull(job, ends), slice_rows)
    # A slice's elements are added in the tensor's order: then the blocks come one after another.
    if slice_rows is None:
        parts = _map_blocks(job, workers, "two passes", finish, blocks)
    else:
        parts = [workers.map(finish, [block])[0] for block in blocks]
    for part in parts:  # an earlier run may have found them
        params.degenerate[list(part.degenerate)] = True
    return Measurement(
        sums=error_sums(_listed(part.rows for part in parts), layout.num_elements, int(params.degenerate.sum())),
        hull=_hull_of(ends),
        num_slices=layout.num_slices,
        slice_sums=_slice_sums(layout, slice_rows, params.degenerate),
    )


def _quantize_in_one_pass(job: TensorJob, layout: Layout, workers: Workers, blocks: Sequence[Block]) -> Measurement:
    parts = _map_blocks(job, workers, "one pass", partial(_finish_block, job, layout, workers), blocks)
    slices = [part.slices for part in parts if part.slices is not None]
    num_degenerate = sum(block.num_degenerate for block in slices)
    for before, block in pairwise(slices):
        num_degenerate += block.head_is_degenerate and not before.tail_is_degenerate
    rows = [block.rows for block in slices if block.rows is not None]
    degenerate = [block.degenerate for block in slices if block.degenerate is not None]
    return Measurement(
        sums=error_sums(_listed(part.rows for part in parts), layout.num_elements, num_degenerate),
        hull=_hull_of(np.array([block.hull for block in slices]).T),
        num_slices=layout.num_slices,
        slice_sums=_slice_sums(layout, np.concatenate(rows), np.concatenate(degenerate)) if rows else None,
    )


def _map_blocks(
    job: TensorJob, workers: Workers, way: str, finish: Callable[[Block], _Part], blocks: Sequence[Block]
) -> list[_Part]:
    """What `finish` gives for each block; of a tensor with regions, those that are done have given it already."""
    if job.regions is None:
        return workers.map(finish, blocks)
    itemsize = job.info.dtype.bits // 8
    done = job.regions.done(way)
    parts = [_Part.from_json(finding) for region in done for finding in region.findings]
    begin = done[-1].stop if done else 0
    job.on_bytes(begin * itemsize)
    for region in job.regions.ahead(blocks, begin, itemsize):
        found = workers.map(finish, region)
        parts += found
        start, stop = region[0][0], region[-1][1]
        if stop < job.info.num_elements:
            findings = [part.to_json() for part in found]
            job.regions.keep(Region(way=way, start=start, stop=stop, findings=findings))
    return parts


def _finish_block(job: TensorJob, layout: Layout, workers: Workers, block: Block) -> _Part:
    """Everything for one block of a tensor with short slices, from one read."""
    start, stop = block
    first, last = layout.slice_of(start), layout.slice_of(stop - 1)
    span = layout.start_of(first), layout.start_of(last + 1)
    part = _finish_at_once(job, layout, workers, span, block)
    if part is None:
        x = read_block(job.reader, job.info, workers, "input", span)
        y = _room_for_output(job, workers, x)
        part = _finish_on_device(job, layout, workers, x, y, span, block)
        if part is None:
            part = _finish_step_by_step(job, layout, workers, x, y, span, block)
        _finish(job, y, start - span[0], block)
    return part


def _finish_at_once(job: TensorJob, layout: Layout, workers: Workers, span: Block, block: Block) -> _Part | None:
    """In one call of a kernel, which reads the file itself; None where that is not possible."""
    files = span_of(job.reader, job.writer, job.info, workers, span)
    if files is None or not _takes_one_call(job):
        return None
    x = workers.buffer("input", files.x.dtype.type, span[1] - span[0])
    y = _room_for_output(job, workers, x)
    done = requantize_and_sum(
        x, y, span[0], *block, layout, job.spec, job.info.dtype.name,
        keep=job.writer is not None, source=files.source, sink=files.sink, trouble=files.trouble,
    )  # fmt: skip
    check_trouble(files.trouble, job.reader, job.writer, job.info)
    if done is None:
        return None
    job.on_bytes((block[1] - block[0]) * x.itemsize)
    return _part_of(done, continues=span[0] < block[0])


def _finish_on_device(
    job: TensorJob, layout: Layout, workers: Workers, x: NDArray[Any], y: NDArray[Any], span: Block, block: Block
) -> _Part | None:
    """The same by a back end that does not read files: one copy to the device and one back; None as above."""
    if workers.backend.reads_files or not _takes_one_call(job):
        return None
    done = workers.backend.requantize_and_sum(
        x, y, span[0], *block, layout, job.spec, job.info.dtype.name, keep=job.writer is not None
    )
    return None if done is None else _part_of(done, continues=span[0] < block[0])


def _takes_one_call(job: TensorJob) -> bool:
    return job.given_range is None and not job.per_slice and job.spec.estimator == DEFAULT_ESTIMATOR


def _part_of(done: BlockSums, *, continues: bool) -> _Part:
    slices = _block_slices(done.ends, done.degenerate, None, continues=continues)
    done.sums[0, columns.INPUT_MIN], done.sums[0, columns.INPUT_MAX] = slices.hull
    return _Part(rows=done.sums, slices=slices)


def _finish_step_by_step(
    job: TensorJob, layout: Layout, workers: Workers, x: NDArray[Any], y: NDArray[Any], span: Block, block: Block
) -> _Part:
    """The same for a range that is given, elements that are not finite, and sums of each slice."""
    (lo, hi), (start, stop) = span, block
    dtype = job.info.dtype.name
    first, num_slices = layout.slice_of(lo), layout.slice_of(hi - 1) + 1 - layout.slice_of(lo)
    ends = given_ends(job.given_range, first, num_slices, dtype, job.spec.compute_dtype)
    if ends is None:
        ends = ends_in_memory(estimator_of(job.spec, dtype, workers), x, lo, layout)
    params = workers.backend.quant_params(ends, job.spec, layout, first, dtype)
    rows = workers.backend.quantize_and_sum(x, y, lo, start, stop, layout, params, keep=job.writer is not None)
    _set_extremes(rows, _measured_hull(job, ends), x, dtype, workers)
    slice_rows = None
    if job.per_slice:
        slice_rows = empty_sums(num_slices)
        _add_to_slices(job, layout, workers, params, x, y, span, slice_rows)
    return _Part(rows=rows, slices=_block_slices(ends, params.degenerate, slice_rows, continues=lo < start))


def _apply_to_block(
    job: TensorJob,
    layout: Layout,
    workers: Workers,
    params: QuantParams,
    hull: Hull | None,
    slice_rows: NDArray[np.float64] | None,
    block: Block,
) -> _Part:
    """The second pass over one block; the grids of all slices are known."""
    start, stop = block
    if hull is not None and slice_rows is None:
        rows = _apply_to_span(job, layout, workers, params, block)
        if rows is not None:
            rows[0, [columns.INPUT_MIN, columns.INPUT_MAX]] = hull
            return _Part(rows=rows)
    x = read_block(job.reader, job.info, workers, "input", block)
    y = _room_for_output(job, workers, x)
    rows = workers.backend.quantize_and_sum(x, y, start, start, stop, layout, params, keep=job.writer is not None)
    _set_extremes(rows, hull, x, job.info.dtype.name, workers)
    if slice_rows is not None:
        _add_to_slices(job, layout, workers, params, x, y, block, slice_rows)
    _finish(job, y, 0, block)
    has_spoilt = job.regions is not None and rows[:, columns.NONFINITE_OUTPUT].any()
    return _Part(rows=rows, degenerate=np.flatnonzero(params.degenerate).tolist() if has_spoilt else ())


def _apply_to_span(
    job: TensorJob, layout: Layout, workers: Workers, params: QuantParams, block: Block
) -> NDArray[np.float64] | None:
    """The same by a kernel that reads the file itself; None where that is not possible or elements are not finite."""
    span = span_of(job.reader, job.writer, job.info, workers, block)
    if span is None:
        return None
    rows = empty_sums(-(-(span.stop - span.start) // CHUNK_ELEMENTS))
    done = cpu_spans.quantize_and_sum(span, layout, params, rows)
    check_trouble(span.trouble, job.reader, job.writer, job.info)
    if done < span.stop or not np.isfinite(rows[:, columns.ABS_ERROR]).all():
        return None
    job.on_bytes((span.stop - span.start) * span.x.itemsize)
    return rows


def _add_to_slices(
    job: TensorJob,
    layout: Layout,
    workers: Workers,
    params: QuantParams,
    x: NDArray[Any],
    y: NDArray[Any],
    span: Block,
    slice_rows: NDArray[np.float64],
) -> None:
    """Add the elements of `span`, which are `x`, to the sums of their slices; `y` has only the block's so far."""
    whole = y if job.writer is not None else np.empty_like(x)
    workers.backend.quantize(x, whole, span[0], *span, layout, params)
    workers.backend.sum_slices(x, whole, span[0], *span, layout, params, slice_rows)


def _room_for_output(job: TensorJob, workers: Workers, x: NDArray[Any]) -> NDArray[Any]:
    """For all that was read if it is written, else none."""
    return workers.buffer("output", x.dtype.type, 0 if job.writer is None else len(x))


def _finish(job: TensorJob, y: NDArray[Any], begin: int, block: Block) -> None:
    """Write the block's elements, which begin at y[begin], and tell of them."""
    start, stop = block
    job.on_bytes((stop - start) * y.itemsize)
    if job.writer is not None:
        write_block(job.writer, job.info, y[begin : begin + stop - start], start)


def _measured_hull(job: TensorJob, ends: Floats) -> Hull | None:
    """The smallest and the largest element, where measuring the range found them; infinities hide the finite ones."""
    lo, hi = _hull_of(ends)
    return (lo, hi) if not job.spec.is_range_given and isfinite(lo) and isfinite(hi) else None


def _set_extremes(rows: NDArray[np.float64], hull: Hull | None, x: NDArray[Any], dtype: str, workers: Workers) -> None:
    """The extremes of the finite elements, into the first row: they merge, so any row will do."""
    rows[0, [columns.INPUT_MIN, columns.INPUT_MAX]] = workers.backend.extremes(x, dtype) if hull is None else hull


def _block_slices(
    ends: Floats, degenerate: NDArray[np.bool_], rows: NDArray[np.float64] | None, *, continues: bool
) -> _BlockSlices:
    begin = 1 if continues else 0
    if rows is not None:  # summed whole here, beyond the block's end too
        degenerate = degenerate | (rows[:, columns.NONFINITE_OUTPUT] > 0)
    return _BlockSlices(
        hull=_hull_of(ends),
        num_degenerate=int(degenerate[begin:].sum()),
        head_is_degenerate=continues and bool(degenerate[0]),
        tail_is_degenerate=bool(degenerate[-1]),
        rows=None if rows is None else rows[begin:],
        degenerate=None if rows is None else degenerate[begin:],
    )


def given_ends(
    given_range: GivenRange | None, first_slice: int, num_slices: int, dtype: str, compute_dtype: ComputeDType
) -> Floats | None:
    """The ends (2, slices) that were given, rounded as the op rounds them; None where they must be measured."""
    if given_range is None:
        return None
    ends = np.empty((2, num_slices), float_type(dtype))
    like = like_of(dtype, compute_dtype)
    for row, end in enumerate(given_range):
        part = end if np.ndim(end) == 0 else np.asarray(end)[first_slice : first_slice + num_slices]
        ends[row] = in_arithmetic(part, like, dtype)
    return ends


def check_memory(info: TensorInfo, layout: Layout, workers: Workers, bytes_per_slice: int) -> None:
    """Refuse a tensor whose ranges, or what is kept of each, do not fit: they are held for the whole tensor."""
    needed = layout.num_slices * bytes_per_slice
    if needed > workers.max_memory:
        per_channel = "leave out --per-channel, " if bytes_per_slice > GRID_BYTES else ""
        raise UsageError(
            f"'{escape_name(info.name)}' has {layout.num_slices:,} ranges, for which {needed >> 20} MiB of memory are "
            f"needed; choose another axis, {per_channel}or raise --max-memory"
        )


def _listed(parts: Iterable[NDArray[np.float64]]) -> list[list[float]]:
    return [row for part in parts for row in part.tolist()]


def _hull_of(ends: Floats) -> Hull:
    return float(np.fmin.reduce(ends[0])), float(np.fmax.reduce(ends[1]))


def _slice_sums(
    layout: Layout, rows: NDArray[np.float64] | None, degenerate: NDArray[np.bool_]
) -> list[ErrorSums] | None:
    if rows is None:
        return None
    sizes = [layout.size_of(s) for s in range(len(rows))]
    return sums_of_each(rows, sizes, degenerate.astype(np.int64).tolist())


def error_sums(rows: Sequence[Sequence[float]], num_elements: int, num_degenerate: int) -> ErrorSums:
    """The sums of a tensor's chunks as one mergeable value; beyond a chunk nothing is rounded."""
    by_column = list(zip(*rows, strict=True))
    sums = [expansion(by_column[column]) for column in range(columns.NUM_SUMS)]
    return ErrorSums(
        num_elements=num_elements,
        num_nonfinite=int(sum(by_column[columns.NONFINITE])),
        num_nonfinite_output=int(sum(by_column[columns.NONFINITE_OUTPUT])),
        num_clipped=int(sum(by_column[columns.CLIPPED])),
        num_zeroed=int(sum(by_column[columns.ZEROED])),
        num_degenerate=num_degenerate,
        input_min=min(by_column[columns.INPUT_MIN]) + 0.0,
        input_max=max(by_column[columns.INPUT_MAX]) + 0.0,
        max_abs_error=max(by_column[columns.MAX_ABS_ERROR]),
        error=sums[columns.ERROR],
        abs_error=sums[columns.ABS_ERROR],
        sq_error=sums[columns.SQ_ERROR],
        sq_input=sums[columns.SQ_INPUT],
        error_input=sums[columns.ERROR_INPUT],
    )


def sums_of_each(
    rows: NDArray[np.float64], num_elements: Sequence[int], num_degenerate: Sequence[int]
) -> list[ErrorSums]:
    """The sums of many slices, or small tensors, of one row (SUM_COLUMNS,) each: column by column, to save time."""

    def counts(column: int) -> list[int]:
        listed: list[int] = rows[:, column].astype(np.int64).tolist()
        return listed

    def floats(column: int) -> list[float]:
        listed: list[float] = (rows[:, column] + 0.0).tolist()
        return listed

    def sums(column: int) -> list[Expansion]:
        values = floats(column)
        return [(value,) if value else () for value in values] if 0.0 in values else list(zip(values, strict=True))

    by_field = {
        "num_elements": num_elements,
        "num_nonfinite": counts(columns.NONFINITE),
        "num_nonfinite_output": counts(columns.NONFINITE_OUTPUT),
        "num_clipped": counts(columns.CLIPPED),
        "num_zeroed": counts(columns.ZEROED),
        "num_degenerate": num_degenerate,
        "input_min": floats(columns.INPUT_MIN),
        "input_max": floats(columns.INPUT_MAX),
        "max_abs_error": floats(columns.MAX_ABS_ERROR),
        "error": sums(columns.ERROR),
        "abs_error": sums(columns.ABS_ERROR),
        "sq_error": sums(columns.SQ_ERROR),
        "sq_input": sums(columns.SQ_INPUT),
        "error_input": sums(columns.ERROR_INPUT),
    }
    return list(map(ErrorSums._make, zip(*map(by_field.__getitem__, ErrorSums._fields), strict=True)))
