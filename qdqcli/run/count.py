"""Histograms of measured tensors: a second read, because the bins depend on the extremes found by the first.

Works block by block; a tensor whose ranges do not fit into memory at once has no histograms.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import QPARAM_BYTES, Block, blocks_of, read_block
from qdqcli.measure.estimate import estimate_ranges
from qdqcli.measure.given_range import given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.workers import Workers
from qdqcli.op import kernels
from qdqcli.op.params import Stored
from qdqcli.recipe.plan import Plan
from qdqcli.result.histogram import Histogram, Histograms, compact
from qdqcli.result.result import Row, TensorResult
from qdqcli.run.pipeline import Measuring
from qdqcli.stats.metrics import MetricValue
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

BINS = 64


def with_histograms(
    plans: Sequence[Plan], rows: Sequence[Row], measuring: Measuring, workers: Workers
) -> Iterator[Row]:
    """Yield the rows in the order of the plans' tensors, with histograms where quantized."""
    remaining = iter(rows)
    for plan in plans:
        with plan.shard.open() as reader:
            for tensor, _ in plan.tensors:
                workers.interruption.check()
                row = next(remaining)
                if isinstance(row, TensorResult):
                    row = row._replace(histograms=_histograms(tensor, plan, row, reader, measuring, workers))
                yield row


def _histograms(
    tensor: TensorInfo,
    plan: Plan,
    row: TensorResult,
    reader: ShardReader,
    measuring: Measuring,
    workers: Workers,
) -> Histograms | None:
    layout = layout_of(tensor, row.spec) if row.spec is not None else None
    if row.spec is None or layout is None or layout.num_slices * QPARAM_BYTES > workers.max_memory:
        return None
    if _limits(row.stats) is None:  # before estimating ranges in vain
        return None
    dtype, spec = tensor.dtype.name, row.spec
    given = measuring.range_of(plan, tensor, spec)
    ranges = given_ranges(given, 0, layout.num_slices, dtype, spec.compute_dtype)
    if ranges is None:
        ranges = estimate_ranges(spec, reader, tensor, layout, workers)
    params = workers.backend.quant_params(ranges, spec, layout, 0, dtype)

    def pair(block: Block) -> Pair:
        x = read_block(reader, tensor, workers, "input", block)
        y = workers.buffer("output", x.dtype.type, len(x))
        workers.backend.quantize(x, y, block[0], *block, layout, params)
        return x, y

    return count_pairs(pair, blocks_of(tensor, workers), row.stats, workers)


Pair = tuple[Stored, Stored]
"""The elements of a block before and after quantization, in the storage dtype."""


def count_pairs(
    pair: Callable[[Block], Pair], blocks: Sequence[Block], stats: Mapping[str, MetricValue], workers: Workers
) -> Histograms | None:
    """Return the histograms over all blocks; None where the tensor's `stats` give no finite bins."""
    limits = _limits(stats)
    if limits is None:
        return None
    low, high, peak = limits
    scales = _bins_per_unit(high - low), _bins_per_unit(2.0 * peak)

    def count(block: Block) -> NDArray[np.int64]:
        counts = np.zeros((2, BINS), np.int64)
        kernels.count_bins(*pair(block), low, scales[0], -peak, scales[1], *counts)
        return counts

    values, errors = np.sum(workers.map(count, blocks), axis=0).tolist()
    return Histograms(
        values=Histogram(low=low, high=high, counts=compact(values)),
        errors=Histogram(low=-peak, high=peak, counts=compact(errors)),
    )


def _limits(stats: Mapping[str, MetricValue]) -> tuple[float, float, float] | None:
    low, high, peak = (stats[name] for name in ("input_min", "input_max", "max_abs_error"))
    if low is None or high is None or peak is None or not isfinite(high - low) or not isfinite(2.0 * peak):
        return None
    return float(low), float(high), float(peak)


def _bins_per_unit(width: float) -> float:
    """Return bins per unit; 0, which puts all elements in the first bin, where it is not finite or the width is 0."""
    scale = BINS / width if width else 0.0
    return scale if isfinite(scale) else 0.0
