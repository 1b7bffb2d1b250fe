"""CPU back end: chooses the loop for a layout. Takes parts of a tensor, returns keys, qparams, values and error sums.

Slices are processed run by run. Runs of fewer than VECTOR_SIZE neighbours leave most elements of a vector unused: where
they recur in every row (last axis), their qparams are broadcast to one column per element of a row, and whole rows are
processed instead.
"""

from collections.abc import Sequence
from math import inf, isnan

import numpy as np
from numpy.typing import NDArray

from qdqcli.op import kernels
from qdqcli.op.arguments import AHEAD, RUN, Found, Loop, SliceMeasuring, Terms
from qdqcli.op.columns import (
    ABS_ERROR,
    CLIPPED,
    INPUT_MAX,
    INPUT_MIN,
    NONFINITE,
    NONFINITE_OUTPUT,
    NUM_SUMS,
    BatchSums,
    BlockSums,
    empty_sums,
)
from qdqcli.op.jit.cache import host_has
from qdqcli.op.jit.kernel import VECTOR_SIZE, StaticBool
from qdqcli.op.layout import Elements, Layout
from qdqcli.op.params import (
    FLAG_ROWS,
    FLOAT_TYPE,
    INFINITY,
    PATTERN,
    QPARAM_ROWS,
    STORAGE,
    Codes,
    Floats,
    OrderKeys,
    Qparams,
    QuantParams,
    SettingsParams,
    Stored,
    empty_order_keys,
    floats_of,
    merge_order_keys,
    op_and_codes,
    order_key_limits,
    ranges_of_order_keys,
)
from qdqcli.op.spec import QuantSpec
from qdqcli.stats.sums import CHUNK_ELEMENTS

_SHORT_RUN = 16 * VECTOR_SIZE
"""Longest run, in elements, whose extremes take longer to reduce across a vector than to scan."""

NONTEMPORAL_BYTES = 16 << 20
"""Output size in bytes from which no cache keeps the output for its next reader."""
LINE_BYTES = 64
"""Cache line: non-temporal stores of halves take up to 2.3 times as long as ordinary stores (16-bit types, Intel)."""


def is_columnar(layout: Layout) -> bool:
    """Tell whether slices recur in every row, by fewer elements than a vector has."""
    return layout.inner < VECTOR_SIZE and not layout.is_contiguous


def measure_range(
    x: Stored, start: int, stop: int, layout: Layout, first_slice: int, order_keys: OrderKeys, dtype: str
) -> None:
    """Widen `order_keys` (2, slices from `first_slice` on) by the elements [start, stop), which are `x`."""
    bits, limits = x.view(PATTERN[dtype]), order_key_limits(dtype)
    if not is_columnar(layout):
        kernels.measure_range(bits, Elements(start, start, stop), layout.steps(first_slice), limits, order_keys)
        return
    if layout.inner == 1:  # a column is a slice
        kernels.measure_columns(bits, Elements(start, start, stop), layout.row, limits, order_keys)
        return
    by_column = empty_order_keys(layout.row, dtype)
    kernels.measure_columns(bits, Elements(start, start, stop), layout.row, limits, by_column)
    begins = np.arange(0, layout.row, layout.inner)
    least, greatest = np.minimum.reduceat(by_column[0], begins), np.maximum.reduceat(by_column[1], begins)
    merge_order_keys(order_keys, np.array([least, greatest]))


def quant_params(ranges: Floats, spec: QuantSpec, layout: Layout, first_slice: int, dtype: str) -> QuantParams:
    """Return the qparams of the slices from `first_slice` on, with these `ranges` (2, slices)."""
    num_slices = ranges.shape[1]
    capacity = _whole_vectors(num_slices)
    padded = np.zeros((2, capacity), FLOAT_TYPE[dtype])
    padded[:, :num_slices] = ranges
    values, flags = np.empty((QPARAM_ROWS, capacity), padded.dtype), np.empty((FLAG_ROWS, capacity), np.bool_)
    (op, codes), qparams = op_and_codes(spec, dtype), Qparams(values, flags, None, np.ones(1, np.bool_))
    kernels.make_qparams(padded, 0, num_slices, codes, spec.is_range_given, op.compute_type, qparams)
    return QuantParams(
        first_slice=first_slice,
        num_slices=num_slices,
        qparams=values,
        flags=flags,
        columns=_spread(values, layout) if is_columnar(layout) else None,
        op=op,
    )


def _whole_vectors(count: int) -> int:
    """Round up to a multiple of VECTOR_SIZE."""
    return -(-count // VECTOR_SIZE) * VECTOR_SIZE


def _spread(qparams: Floats, layout: Layout) -> Floats:
    """Return the qparams of each element of a row, which wrap around."""
    around = np.arange(layout.row + VECTOR_SIZE) % layout.row
    return np.ascontiguousarray(qparams[:, around // layout.inner])


def quantize(x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, params: QuantParams) -> None:
    """Quantize and dequantize the elements [start, stop) into `y`; x[0] and y[0] are element `base`."""
    kernels.quantize(x, y, *params.arguments(Elements(base, start, stop), layout), params.op, None)


def quantize_and_sum(
    x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, settings: SettingsParams, *,
    keep: bool, total_bytes: int = 0,
) -> list[NDArray[np.float64]]:  # fmt: skip
    """Return the error sums (chunks, SUM_COLUMNS) under each setting; `start` begins a chunk.

    With `keep` there is one setting, and `y` gets its output. Parts `y` of a large output (`total_bytes`) are written
    by non-temporal stores; they have the alignment of `base`, modulo VECTOR_SIZE elements. The sums leave out the
    extremes of the input. Slices whose output became infinite or NaN are marked in `degenerate` of their qparams.
    """
    elements, steps, qparams = settings.arguments(Elements(base, start, stop), layout)
    sums = empty_sums(-(-(stop - start) // CHUNK_ELEMENTS), len(settings.each))
    nontemporal = _nontemporal_parts(x.itemsize) if total_bytes >= NONTEMPORAL_BYTES else None
    terms = terms_of(x, x, settings=len(settings.each))
    loop = Loop(x, y, settings.each[0].op, keep, nontemporal, terms, AHEAD)
    kernels.quantize_and_sum(loop, elements, steps, qparams, sums)
    for chunk, setting in np.argwhere(~np.isfinite(sums[..., ABS_ERROR])).tolist():
        params = settings.each[setting]
        first = start + chunk * CHUNK_ELEMENTS
        last = min(first + CHUNK_ELEMENTS, stop)
        part = x[first - base : last - base]
        out = y[first - base : last - base] if keep else np.empty_like(part)
        quantize(part, out, first, first, last, layout, params)
        _look_closer_at_slices(part, out, first, layout, params, sums[chunk, setting])
    return list(sums.swapaxes(0, 1))


def _look_closer_at_slices(
    x: Stored, y: Stored, first: int, layout: Layout, params: QuantParams, row: NDArray[np.float64]
) -> None:
    """`_look_closer` at elements from `first` on; marks slices that became infinite or NaN as degenerate."""
    _look_closer(x, y, row)
    if row[NONFINITE] or row[NONFINITE_OUTPUT]:
        slices = layout.slice_of(np.arange(first, first + x.size)) - params.first_slice
        v, w, (lo, hi) = floats_of(x), floats_of(y), params.qparams[:2, slices]
        params.degenerate[slices[np.isfinite(v) & ~np.isfinite(w)]] = True
        row[CLIPPED] = np.count_nonzero(((v < lo) | (v > hi)) & np.isfinite(v) & np.isfinite(w))


def fake_quantize_and_sum(
    x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, specs: Sequence[QuantSpec], dtype: str, *,
    keep: bool, total_bytes: int = 0,
) -> list[BlockSums] | None:  # fmt: skip
    """Measure, quantize and sum under each setting in one call, where `x` holds whole slices of one run each.

    The settings have the same round mode and arithmetic; with `keep`, there is one. Parts `y` of a large output
    (`total_bytes`) are written by non-temporal stores; they have the alignment of `base`, modulo VECTOR_SIZE elements.

    Returns None where elements are not finite: the caller then goes step by step.
    """
    end = base + len(x)
    first_slice = layout.slice_of(base)
    num_slices = layout.slice_of(end - 1) + 1 - first_slice
    in_chunk = CHUNK_ELEMENTS // layout.inner + CHUNK_ELEMENTS // layout.row + 4  # the last of each row may be short
    ops, codes = zip(*(op_and_codes(spec, dtype) for spec in specs), strict=True)
    measuring = measuring_of(x, num_slices, min(num_slices, in_chunk), layout, codes, dtype)
    sums = empty_sums(-(-(stop - start) // CHUNK_ELEMENTS), len(specs))
    nontemporal = _nontemporal_parts(x.itemsize) if total_bytes >= NONTEMPORAL_BYTES else None
    loop = Loop(x, y, ops[0], keep, nontemporal, terms_of(x, x, settings=len(specs)), CHUNK_ELEMENTS)
    block = np.array([(base, start, stop, layout.inner, layout.row, layout.advance, first_slice, end)])
    found = Found(np.empty((1, 2), FLOAT_TYPE[dtype]), np.zeros(1, np.int64))
    kernels.fake_quantize_and_sum(loop, block, measuring, sums, found)
    if not np.isfinite(sums[..., ABS_ERROR]).all():
        return None
    sums[0, :, INPUT_MIN], sums[0, :, INPUT_MAX] = found.extremes[0]
    return [
        BlockSums(sums=of_setting, ranges=measuring.ranges[:, :num_slices], degenerate=degenerate[:num_slices])
        for of_setting, degenerate in zip(sums.swapaxes(0, 1), measuring.degenerate, strict=True)
    ]


def fake_quantize_and_sum_each(
    x: Stored, y: Stored, layouts: NDArray[np.int64], max_slices: int, spec: QuantSpec, dtype: str, *, keep: bool
) -> BatchSums:
    """`fake_quantize_and_sum` for many tensors of at most `max_slices` slices each, which are parts of `x`.

    `layouts` (tensors, 5): first element, number of elements, and the layout's steps.
    """
    count, (op, codes) = len(layouts), op_and_codes(spec, dtype)
    measuring = measuring_of(x, max_slices, max_slices, None, [codes], dtype)
    tensors = np.zeros((count, 8), np.int64)
    tensors[:, 0], tensors[:, 2:6], tensors[:, 7] = -layouts[:, 0], layouts[:, 1:], layouts[:, 1]
    sums, found = empty_sums(count), Found(np.empty((count, 2), FLOAT_TYPE[dtype]), np.zeros(count, np.int64))
    loop = Loop(x, y, op, keep, None, terms_of(x, x), CHUNK_ELEMENTS)
    kernels.fake_quantize_and_sum(loop, tensors, measuring, sums[:, None], found)
    sums[:, [INPUT_MIN, INPUT_MAX]] = found.extremes
    return BatchSums(sums=sums, num_degenerate=found.num_degenerate, is_done=np.isfinite(sums[:, ABS_ERROR]))


def measuring_of(
    x: Stored, num_slices: int, in_chunk: int, layout: Layout | None, codes: Sequence[Codes], dtype: str
) -> SliceMeasuring:
    """Return how slices are measured, with scratch buffers for the slices of a call, and of a chunk under each setting.

    `codes` has those of each setting. Slices are runs of one `layout`, or of several (None).
    """
    number, settings = FLOAT_TYPE[dtype], len(codes)
    of_chunk, of_call = _whole_vectors(in_chunk), _whole_vectors(num_slices) + VECTOR_SIZE
    inner, row = (1, 1) if layout is None else (layout.inner, layout.row)
    has_short_runs = inner <= _SHORT_RUN and inner % VECTOR_SIZE == 0 == row % inner
    return SliceMeasuring(
        x.view(PATTERN[dtype]),
        *order_key_limits(dtype),
        q_min=np.array([each.q_min for each in codes], number),
        q_max=np.array([each.q_max for each in codes], number),
        short_runs=True if has_short_runs else None,
        order_keys=np.empty((2, of_call), PATTERN[dtype]),
        ranges=np.empty((2, of_call), number),
        values=np.empty((settings, QPARAM_ROWS, of_chunk), number),
        flags=np.empty((settings, FLAG_ROWS, of_chunk), np.bool_),
        clipping=np.empty(settings, np.bool_),
        degenerate=np.empty((settings, of_call), np.bool_),
    )


def terms_of(x: Stored, y: Stored, *, extreme: bool = False, settings: int = 1) -> Terms:
    """Return terms in float32, or in float64 for float64 elements and `extreme` chunks."""
    is_double = extreme or x.dtype == np.float64 or y.dtype == np.float64
    zero = np.float64(0) if is_double else np.float32(0)
    lanes = settings * VECTOR_SIZE
    return Terms(
        zero,
        None if is_double else True,
        np.empty(NUM_SUMS * lanes),
        np.empty(lanes, zero.dtype),
        np.empty(lanes, np.int32),
        np.empty(RUN if settings > 1 else 0, zero.dtype) if x.dtype.itemsize == 2 else None,
    )


def _nontemporal_parts(itemsize: int) -> StaticBool:
    """True for non-temporal stores to parts of a large output; with AVX2, sums take half a vector at a time."""
    stored = VECTOR_SIZE * itemsize // (1 if writes_whole_lines() else 2)
    return True if stored >= LINE_BYTES else None


def writes_whole_lines() -> bool:
    """Tell whether a float32 vector is one store.

    On Zen 3, non-temporal stores of half cache lines to several rows in turn take 3 times as long as ordinary stores,
    and twice as long from a buffer.
    """
    return host_has("avx512f")


def sum_slices(
    x: Stored, y: Stored, base: int, start: int, stop: int, layout: Layout, params: QuantParams,
    sums: NDArray[np.float64],
) -> None:  # fmt: skip
    """Add to `sums` (slices, SUM_COLUMNS), element after element: call with parts in the tensor's order."""
    kernels.sum_slices(x, y, Elements(base, start, stop), layout.steps(params.first_slice), params.qparams, sums)


def differentiate(
    gradients: Stored, x: Stored, out: Stored, start: int, layout: Layout, ranges: Floats, dtype: str
) -> int:
    """Write the op's gradient of the elements from `start` on to `out`; return the number outside `ranges`."""
    elements = Elements(start, start, start + x.size)
    return int(kernels.differentiate(gradients, x, out, elements, layout.steps(), ranges, STORAGE[dtype](0)))


def extremes(x: Stored, dtype: str) -> tuple[float, float]:
    """Smallest and largest finite element; (inf, -inf) where there is none."""
    order_keys = empty_order_keys(1, dtype)
    whole = Layout.of(x.shape, QuantSpec())
    measure_range(x, 0, len(x), whole, 0, order_keys, dtype)
    if order_keys[0, 0] < -INFINITY[dtype] or INFINITY[dtype] <= order_keys[1, 0]:  # they hide the finite extremes
        bits, elements, numbers = x.view(PATTERN[dtype]), Elements(0, 0, len(x)), np.empty(1, np.int64)
        kernels.count_finite(bits, elements, whole.steps(), order_key_limits(dtype), numbers, order_keys)
    lo, hi = ranges_of_order_keys(order_keys, dtype)[:, 0].tolist()
    return (inf, -inf) if isnan(lo) else (lo, hi)


def errors(x: Stored, y: Stored, dtype: str) -> NDArray[np.float64]:
    """Return the error sums of each chunk of y - x, the first with the extremes of all of `x`."""
    sums = error_sums(x, y)
    if x.size:
        sums[0, [INPUT_MIN, INPUT_MAX]] = extremes(x, dtype)
    return sums


def error_sums(x: Stored, y: Stored) -> NDArray[np.float64]:
    """Return the error sums (chunks, SUM_COLUMNS) of y - x, without the extremes of x and the clip counts."""
    sums = empty_sums(-(-len(x) // CHUNK_ELEMENTS))
    kernels.sum_chunks(x, y, terms_of(x, y), sums)
    for chunk in np.flatnonzero(~np.isfinite(sums[:, ABS_ERROR])):
        part = slice(chunk * CHUNK_ELEMENTS, (chunk + 1) * CHUNK_ELEMENTS)
        _look_closer(x[part], y[part], sums[chunk])
    return sums


def _look_closer(x: Stored, y: Stored, row: NDArray[np.float64]) -> None:
    """Sum a chunk again into its `row`, without non-finite elements, and in float64 if it is extreme."""
    finite_x, finite_y = np.isfinite(floats_of(x)), np.isfinite(floats_of(y))
    measured = finite_x & finite_y
    row[NONFINITE] = x.size - np.count_nonzero(finite_x)
    row[NONFINITE_OUTPUT] = np.count_nonzero(finite_x & ~finite_y)
    x, y = np.where(measured, x, x.dtype.type(0)), np.where(measured, y, y.dtype.type(0))
    for extreme in (False, True):
        kernels.sum_chunks(x, y, terms_of(x, y, extreme=extreme), row[None])
        if not np.isnan(row[ABS_ERROR]):
            break


class CpuBackend:
    """Numba's CPU target; methods as in `backend.Backend`."""

    name = "cpu"
    takes_batches = True
    measure_range = staticmethod(measure_range)
    quant_params = staticmethod(quant_params)
    quantize = staticmethod(quantize)
    quantize_and_sum = staticmethod(quantize_and_sum)
    fake_quantize_and_sum = staticmethod(fake_quantize_and_sum)
    fake_quantize_and_sum_each = staticmethod(fake_quantize_and_sum_each)
    errors = staticmethod(errors)
    sum_slices = staticmethod(sum_slices)
    extremes = staticmethod(extremes)
    differentiate = staticmethod(differentiate)

    def empty(self, nbytes: int) -> NDArray[np.uint8]:
        return np.empty(nbytes, np.uint8)
