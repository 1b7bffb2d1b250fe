"""Findings on a packed weight: the SQNR of plain rounding, whether a second quantization changes it, and slips."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf, log10, prod

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.arrays import fake_quantize_and_measure, quantize_and_measure
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, floats_of
from qdqcli.op.spec import WHOLE_TENSOR, QuantSpec
from qdqcli.result.packing import Packing
from qdqcli.run.float_rounding import finite, is_known, rounding_energies
from qdqcli.run.slips import Slip, find_slip
from qdqcli.stats.metrics import METRICS, MetricValue
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.packed.storage import CodeGrid, Storage
from qdqcli.tensors.tensor import TensorInfo

_SAMPLE_ROWS = 256
"""Rows from the first on that slips and a second quantization are looked for in: at most so many."""
_SLIP_ELEMENTS, _SLIP_COLUMNS = 1 << 20, 1024
"""Elements of the sample for slips, and the columns of them that these are looked for in."""
_AGAIN_ELEMENTS = 1 << 17
"""Elements of the sample for a second quantization."""
_BLOCKS, _BLOCK_ELEMENTS = 16, 1 << 18
"""Blocks of rows of a larger weight on which plain rounding is measured, evenly spread, and the elements of each."""
_FLOAT_ELEMENTS = 1 << 15
"""Elements of each of these blocks for FP8 and FP4, whose rounding takes longer."""
_LARGE_ELEMENTS = 1 << 20
"""Elements from which a matrix with one scale is read some rows at a time."""
_SUSPECT_DB = 3.0
"""A weight this far below the expected SQNR, or without one below this per bit, is examined for slips."""

_SAME = 1e-5
"""Difference, as a share of the largest magnitude, below which two decoded values have one code."""

Part = tuple[TensorInfo, ShardReader]
"""A tensor and the reader of its shard."""


def findings(
    storage: Storage, packed: Part, original: Part | None, sqnr: MetricValue, largest: float, workers: Workers
) -> Packing:
    """Return the findings on a packed weight, and on its difference from the original, if that is in float.

    `largest` is the largest magnitude of the original.
    """
    grid, info = storage.grid, packed[0]
    spec = spec_of(grid, info.shape)
    is_idempotent = None
    if spec is not None and grid.is_symmetric:
        is_idempotent = _is_idempotent(sample_of(*packed, _AGAIN_ELEMENTS), spec)
    if original is None:
        return Packing(storage, is_idempotent=is_idempotent)
    if spec is not None:
        expected = _expected_sqnr(spec, original, workers)
    else:
        expected = _expected_of_floats(grid, original, largest, workers) if is_known(grid) else None
    slip = _slip(packed, original, grid, sqnr, expected)
    return Packing(
        storage,
        expected_sqnr_db=expected,
        is_idempotent=is_idempotent,
        slip=None if slip is None else slip.text,
        slip_sqnr_db=None if slip is None else slip.sqnr_db,
    )


def spec_of(grid: CodeGrid, shape: tuple[int, ...]) -> QuantSpec | None:
    """Return the op's settings with the bits and groups of a packed weight; None where it has no such grid."""
    height, width = grid.block
    if not grid.is_integer or grid.bits < 2 or not prod(shape):  # one bit, signed, has a single value
        return None
    if height == prod(shape[:-1]) and width == shape[-1]:
        return QuantSpec(num_bits=grid.bits)
    if height > 1:
        return None
    if width == shape[-1] and len(shape) == 2:
        return QuantSpec(num_bits=grid.bits, axis=0)
    return QuantSpec(num_bits=grid.bits, group_size=width, ragged_groups=True)


def sample_of(info: TensorInfo, reader: ShardReader, elements: int) -> NDArray[np.float32]:
    """Return the first rows of a tensor as float32, at most about so many elements."""
    width = max(info.shape[-1], 1)
    return rows_of(info, reader, 0, min(prod(info.shape[:-1]), max(min(elements // width, _SAMPLE_ROWS), 1)))


def rows_of(
    info: TensorInfo, reader: ShardReader, start: int, count: int, columns: slice = slice(None)
) -> NDArray[np.float32]:
    """Return rows of a tensor, or some of their columns, as float32."""
    width = info.shape[-1]
    stored = np.empty(count * width, STORAGE[info.dtype.name])
    reader.read_into(info, start * width * stored.itemsize, stored.view(np.uint8).data)
    stored = np.ascontiguousarray(stored.reshape(count, width)[:, columns])
    with np.errstate(over="ignore"):
        rows: NDArray[np.float32] = floats_of(stored.byteswap() if info.big_endian else stored).astype(np.float32)
    return rows


def _expected_sqnr(spec: QuantSpec, original: Part, workers: Workers) -> MetricValue:
    """Return the SQNR of plain rounding, for a weight of more than `_BLOCKS` blocks measured on these."""
    info, reader = original
    rows = max(_BLOCK_ELEMENTS // max(info.shape[-1], 1), 1)
    left = prod(info.shape[:-1]) - rows * _BLOCKS
    if left <= 0 or (spec.axis == WHOLE_TENSOR and not spec.group_size) or info.big_endian:
        return METRICS["sqnr_db"].value(quantize_tensor(TensorJob(info=info, spec=spec, reader=reader), workers).sums)
    starts = [number * rows + left * number // (_BLOCKS - 1) for number in range(_BLOCKS)]
    parts = workers.map(lambda start: _rounded(spec, original, start, rows, workers), starts)
    return METRICS["sqnr_db"].value(ErrorSums.total(parts))


def _rounded(spec: QuantSpec, original: Part, start: int, rows: int, workers: Workers) -> ErrorSums:
    """Return the sums of plain rounding of some rows, each of which has scales of its own."""
    info, reader = original
    shape = rows, info.shape[-1]
    x, y = (workers.buffer(name, STORAGE[info.dtype.name], prod(shape)) for name in ("input", "output"))
    reader.read_into(info, start * shape[1] * x.itemsize, x.view(np.uint8).data)
    return fake_quantize_and_measure(x, y, Layout.of(shape, spec), spec, None, info.dtype.name, workers)


def _expected_of_floats(grid: CodeGrid, original: Part, largest: float, workers: Workers) -> MetricValue:
    """Return the SQNR of plain rounding to FP8 or FP4, of a larger weight on some rows.

    None for a stack of matrices whose last blocks are cut, and for large blocks that are no whole matrices.
    """
    info, reader = original
    rows, width = prod(info.shape[:-1]), info.shape[-1]
    is_whole = grid.block == (rows, width) or info.num_elements == 0
    height, columns = (1, width) if is_whole else grid.block
    peak = largest if is_whole else None
    if info.big_endian or (len(info.shape) > 2 and info.shape[-2] % height):
        return None
    if height * columns > _LARGE_ELEMENTS:
        return _expected_of_matrices(grid, original, largest, workers) if columns == width else None
    count = max(_FLOAT_ELEMENTS // width // height, 1) * height
    wide = max(_FLOAT_ELEMENTS // count // columns, 1) * columns
    down, across = (rows // height - count // height * _BLOCKS) * height, max(width - wide, 0) // columns * columns

    def energies(number: int) -> tuple[float, float]:
        if down <= 0:
            return rounding_energies(rows_of(info, reader, 0, rows), (height, columns), grid, peak, largest)
        start = number * count + down // height * number // (_BLOCKS - 1) * height
        first = across // columns * number // (_BLOCKS - 1) * columns
        x = rows_of(info, reader, start, count, slice(first, first + wide))
        return rounding_energies(x, (height, columns), grid, peak, largest)

    return _sqnr_of(workers.map(energies, range(_BLOCKS if down > 0 else 1)))


def _expected_of_matrices(grid: CodeGrid, original: Part, largest: float, workers: Workers) -> MetricValue:
    """Return the SQNR of plain rounding to FP8 or FP4 with a scale per matrix, on some rows of some of a stack."""
    info, reader = original
    height, width = grid.block
    matrices, step = prod(info.shape[:-1]) // height, max(_FLOAT_ELEMENTS // width, 1)
    taken = min(matrices, _BLOCKS)

    def energies(number: int) -> tuple[float, float]:
        first = matrices * number // taken * height
        pieces = (rows_of(info, reader, first + at, min(step, height - at)) for at in range(0, height, step))
        peak = max(float(np.abs(finite(rows)).max()) for rows in pieces)
        at = (height - min(step, height)) * number // max(taken - 1, 1)
        return rounding_energies(rows_of(info, reader, first + at, min(step, height)), (1, width), grid, peak, largest)

    return _sqnr_of(workers.map(energies, range(taken)))


def _sqnr_of(parts: Iterable[tuple[float, float]]) -> MetricValue:
    """Return the SQNR in dB of energies of values and of their errors; None where it is no number."""
    signal, noise = (sum(column) for column in zip(*parts, strict=True))
    return 10 * log10(signal / noise) if signal and 0 < noise < inf else None


def _is_idempotent(rows: NDArray[np.float32], spec: QuantSpec) -> bool:
    """Tell whether the op gives the rows back, but for float32's rounding: their codes survive.

    A narrow range is tried as well: writers may use as many negative codes as positive ones.
    """
    least = _SAME * np.abs(rows).max()
    again = (quantize_and_measure(rows, replace(spec, narrow_range=narrow))[0] for narrow in (False, True))
    return any(bool(np.abs(values - rows).max() <= least) for values in again)


def _slip(packed: Part, original: Part, grid: CodeGrid, sqnr: MetricValue, expected: MetricValue) -> Slip | None:
    least = _SUSPECT_DB * grid.bits if expected is None else expected - _SUSPECT_DB
    if sqnr is None or sqnr >= least:
        return None
    x, y = (sample_of(*part, _SLIP_ELEMENTS) for part in (original, packed))
    width = grid.block[1]
    columns = _SLIP_COLUMNS // width * width or width  # whole blocks
    return find_slip(x[:, :columns].astype(np.float64), y[:, :columns].astype(np.float64), grid)
