"""Small tensors that follow one another in a file, measured in one call of a kernel instead of one by one."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from qdqcli.op.cpu_quantize import INPUT_MAX, INPUT_MIN
from qdqcli.op.cpu_spans import Neighbours, requantize_and_sum
from qdqcli.op.lanes import LANES
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE
from qdqcli.op.spec import DEFAULT_ESTIMATOR, QuantSpec
from qdqcli.run.blocks import check_trouble
from qdqcli.run.quantize import Measurement, error_sums
from qdqcli.run.stored_layout import layout_of
from qdqcli.run.workers import Workers
from qdqcli.stats.sums import CHUNK_ELEMENTS
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.tensor import TensorInfo

Task = tuple[TensorInfo, QuantSpec]


def measure_neighbours(
    tasks: Sequence[Task], reader: ShardReader, writer: ShardWriter | None, workers: Workers
) -> dict[str, Measurement]:
    """Quantize, and write, those of the tensors for which one call does, and measure them; the rest is not touched.

    The tensors are in the order of the file and their ranges are their own.
    """
    measured: dict[str, Measurement] = {}
    for run in _runs(tasks):
        if len(run) > 1:
            measured |= _measure_run(run, reader, writer, workers)
    return measured


def _runs(tasks: Sequence[Task]) -> Iterator[list[tuple[Task, Layout]]]:
    """Neighbours that one call takes: one dtype, the same settings but for the axis, and aligned to one another."""
    layouts = [(task, _small_layout(*task)) for task in tasks]
    takes = [(task, layout) for task, layout in layouts if layout is not None]

    def kind(entry: tuple[Task, Layout]) -> tuple[object, ...]:
        (info, spec), _ = entry
        return info.dtype.name, info.start % (info.dtype.bits // 8), _settings(spec)

    for _, run in groupby(takes, kind):
        yield list(run)


def _settings(spec: QuantSpec) -> tuple[object, ...]:
    """What the grid depends on, beside the range."""
    return spec.num_bits, spec.signed_input, spec.narrow_range, spec.round_mode, spec.compute_dtype


def _small_layout(info: TensorInfo, spec: QuantSpec) -> Layout | None:
    """The layout of a tensor of at most one chunk whose slices are runs that fill lanes; None of any other."""
    if info.big_endian or spec.range_given or spec.estimator != DEFAULT_ESTIMATOR:
        return None
    layout = layout_of(info, spec)
    is_small = 0 < layout.num_elements <= CHUNK_ELEMENTS
    return layout if is_small and layout.is_contiguous and layout.inner >= LANES else None


def _measure_run(
    run: Sequence[tuple[Task, Layout]], reader: ShardReader, writer: ShardWriter | None, workers: Workers
) -> dict[str, Measurement]:
    (first, spec), _ = run[0]
    (last, _), _ = run[-1]
    storage, dtype = STORAGE[first.dtype.name], first.dtype.name
    itemsize = first.dtype.bits // 8
    source, sink = reader.place(first), None if writer is None else writer.place(first)
    if source is None or (writer is not None and sink is None):
        return {}
    room = (last.start + last.nbytes - first.start) // itemsize
    places = [((info.start - first.start) // itemsize, layout.num_elements, *layout.steps) for (info, _), layout in run]
    neighbours = Neighbours(
        source=source.descriptor,
        sink=None if sink is None else sink.descriptor,
        offset=source.offset,
        x=workers.buffer("input", storage, room),
        y=workers.buffer("output", storage, 0 if sink is None else room),
        places=np.array(places, np.int64),
    )
    found = requantize_and_sum(neighbours, max(layout.num_slices for _, layout in run), spec, dtype)
    check_trouble(neighbours.trouble, reader, writer, first)
    rows, degenerate, done = found.sums.tolist(), found.num_degenerate.tolist(), found.is_done.tolist()
    return {
        info.name: Measurement(
            sums=error_sums([row], layout.num_elements, num_degenerate),
            hull=(row[INPUT_MIN], row[INPUT_MAX]),
            num_slices=layout.num_slices,
        )
        for ((info, _), layout), row, num_degenerate, is_done in zip(run, rows, degenerate, done, strict=True)
        if is_done
    }
