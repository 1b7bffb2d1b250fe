"""Batches of small consecutive tensors, measured in one kernel call."""

from collections.abc import Iterator, Sequence
from itertools import groupby, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import Measurement, sums_of_each
from qdqcli.measure.workers import Workers
from qdqcli.op.columns import INPUT_MAX, INPUT_MIN
from qdqcli.op.params import STORAGE, Stored
from qdqcli.op.spec import DEFAULT_ESTIMATOR, QuantSpec
from qdqcli.recipe.decision import Decision
from qdqcli.stats.sums import CHUNK_ELEMENTS
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.tensor import TensorInfo

Task = tuple[TensorInfo, Decision]


class _Kind(NamedTuple):
    """Properties of a tensor that can be measured in a batch."""

    num_elements: int
    num_slices: int
    steps: tuple[int, int, int]
    """`inner`, `row` and `advance` of the layout."""
    spec: QuantSpec
    dtype: str
    itemsize: int
    common: tuple[object, ...]
    """Properties equal within a batch: the dtype, and the settings other than the range that the qparams depend on."""


Member = tuple[int, TensorInfo, _Kind]
"""Task index, tensor and kind."""


def measure_batch(
    tasks: Sequence[Task], reader: ShardReader, writer: ShardWriter | None, workers: Workers
) -> list[Measurement | None]:
    """Measure (and write) the tensors that fit into batches; None for each tensor left to the caller.

    `tasks` are in file order; each range is measured on its own tensor.
    """
    measured: list[Measurement | None] = [None] * len(tasks)
    for _, group in groupby(_members(tasks), _common):
        numbers, infos, kinds = zip(*group, strict=True)
        if len(numbers) > 1:
            for number, found in zip(numbers, _measure_run(infos, kinds, reader, writer, workers), strict=True):
                measured[number] = found
    return measured


def _common(member: Member) -> tuple[object, ...]:
    """Return the properties equal within a batch: the common ones of the kind, and the alignment."""
    _, info, kind = member
    return kind.common, info.start % kind.itemsize


def _members(tasks: Sequence[Task]) -> Iterator[Member]:
    """Yield the tensors that fit a batch. Kinds are cached: small tensors are many and of few shapes."""
    known: dict[tuple[object, ...], _Kind | None] = {}
    for number, (info, decision) in enumerate(tasks):
        key = info.dtype.name, info.shape, info.big_endian, info.fortran_order, id(decision)
        if key not in known:
            known[key] = _kind(info, decision)
        kind = known[key]
        if kind is not None:
            yield number, info, kind


def _kind(info: TensorInfo, decision: Decision) -> _Kind | None:
    """Return the kind of a tensor, or None where it fits no batch.

    It fits with a measured range, at most one chunk, and contiguous slices.
    """
    if not isinstance(decision, QuantSpec) or info.big_endian:
        return None
    if decision.range_given or decision.estimator != DEFAULT_ESTIMATOR:
        return None
    layout = layout_of(info, decision)
    is_small = 0 < layout.num_elements <= CHUNK_ELEMENTS
    if not is_small or not layout.is_contiguous:
        return None
    settings = (
        decision.num_bits,
        decision.signed_input,
        decision.narrow_range,
        decision.round_mode,
        decision.compute_dtype,
    )
    return _Kind(
        num_elements=layout.num_elements,
        num_slices=layout.num_slices,
        steps=(layout.inner, layout.row, layout.advance),
        spec=decision,
        dtype=info.dtype.name,
        itemsize=info.dtype.bits // 8,
        common=(info.dtype.name, *settings),
    )


def _measure_run(
    infos: Sequence[TensorInfo],
    kinds: Sequence[_Kind],
    reader: ShardReader,
    writer: ShardWriter | None,
    workers: Workers,
) -> Sequence[Measurement | None]:
    """Measure one batch; None for each tensor whose elements or qparams need the general kernels."""
    first, last, kind = infos[0], infos[-1], kinds[0]
    storage = STORAGE[kind.dtype]
    capacity = (last.start + last.nbytes - first.start) // kind.itemsize
    x, y = (
        workers.buffer("input", storage, capacity),
        workers.buffer("output", storage, 0 if writer is None else capacity),
    )
    if not reader.read_batch(first, x.view(np.uint8).data):
        return [None] * len(infos)
    begins = [(info.start - first.start) // kind.itemsize for info in infos]
    sizes, num_slices = [kind.num_elements for kind in kinds], [kind.num_slices for kind in kinds]
    layouts = np.empty((len(infos), 5), np.int64)
    layouts[:, 0], layouts[:, 1], layouts[:, 2:] = begins, sizes, [kind.steps for kind in kinds]
    found = workers.backend.fake_quantize_and_sum_each(
        x, y, layouts, max(num_slices), kind.spec, kind.dtype, keep=writer is not None
    )
    if writer is not None:
        _write_run(infos, y, begins, found.is_done, writer)
    sums = sums_of_each(found.sums, sizes, found.num_degenerate.tolist())
    overall_ranges = zip(*found.sums[:, [INPUT_MIN, INPUT_MAX]].T.tolist(), strict=True)
    measured = list(map(Measurement._make, zip(sums, num_slices, overall_ranges, repeat(None))))
    if found.is_done.all():
        return measured
    return [each if is_done else None for each, is_done in zip(measured, found.is_done.tolist(), strict=True)]


def _write_run(
    infos: Sequence[TensorInfo], y: Stored, begins: Sequence[int], is_done: NDArray[np.bool_], writer: ShardWriter
) -> None:
    """Write the tensors that are done, by a single call where these are all between the first and the last."""
    is_whole = is_done.all() and sum(info.nbytes for info in infos) == y.nbytes
    if is_whole and writer.write_batch(infos[0], y.view(np.uint8).data):
        return
    for info, begin, is_written in zip(infos, begins, is_done.tolist(), strict=True):
        if is_written:
            writer.write(info, 0, y[begin : begin + info.num_elements].view(np.uint8).data)
