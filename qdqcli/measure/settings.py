"""One tensor under many settings: a block is read once, and every setting is applied to it while it is in the cache.

Settings that differ in the grid alone share their ranges. The figures are those of `quantize_tensor` with each setting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.block_part import BlockPart, block_slices
from qdqcli.measure.blocks import QPARAM_BYTES, Block, blocks_of, read_block
from qdqcli.measure.estimate import count_patterns, estimate_ranges, estimator_of, has_histogram, ranges_in_memory
from qdqcli.measure.given_range import GivenRange, given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import Measurement, OverallRange
from qdqcli.measure.tensor import (
    check_slices,
    has_one_pass,
    measured_by_patterns,
    measured_in_one_pass,
    measured_in_two_passes,
    measured_overall_range,
)
from qdqcli.measure.workers import Workers
from qdqcli.op import columns
from qdqcli.op.layout import Layout
from qdqcli.op.params import STORAGE, Floats, QuantParams, Stored
from qdqcli.op.spec import QuantSpec, RoundMode
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.tensor import TensorInfo

_GRIDLESS = ("minmax", "percentile")
"""Estimators whose ranges do not depend on the codes."""


def measure_settings(
    info: TensorInfo,
    settings: Sequence[tuple[QuantSpec, GivenRange | None]],
    reader: ShardReader,
    workers: Workers,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Measurement]:
    """Measure a tensor under each setting, with its given range if any; the same bits as one after another.

    The tensor is read again for settings whose ranges do not fit into memory together with those before. `on_bytes`
    receives the bytes of the tensor once.
    """
    if not info.num_elements:
        return [Measurement(sums=ErrorSums(), num_slices=0) for _ in settings]
    tensor = _Tensor(info, reader, workers)
    found: list[Measurement] = []
    for together in tensor.in_memory(
        [_Column(spec=s, given=given, layout=layout_of(info, s)) for s, given in settings]
    ):
        found += tensor.measure(together, (lambda _: None) if found else on_bytes)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Column:
    """One setting of the tensor."""

    spec: QuantSpec
    given: GivenRange | None
    layout: Layout

    @property
    def ranges_key(self) -> object:
        """Key shared by the settings that have the same ranges."""
        if self.given is not None:
            return id(self)
        if self.spec.estimator not in _GRIDLESS:
            return self.spec
        return replace(self.spec, num_bits=8, signed_input=True, narrow_range=False, round_mode=RoundMode.HALF_TO_EVEN)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Ranges and qparams under a setting: of all slices before the blocks are read, or of those of one block."""

    ranges: Floats
    params: QuantParams
    overall_range: OverallRange | None


class _Tensor:
    """A stored tensor."""

    def __init__(self, info: TensorInfo, reader: ShardReader, workers: Workers) -> None:
        self._info, self._reader, self._workers = info, reader, workers
        self._dtype = info.dtype.name
        self._blocks = blocks_of(info, workers)

    def in_memory(self, settings: Sequence[_Column]) -> Iterator[list[_Column]]:
        """Yield runs of settings whose ranges and qparams fit into memory together."""
        together: list[_Column] = []
        num_slices = 0
        for column in settings:
            needed = 0 if has_one_pass(column.layout, self._blocks) else column.layout.num_slices
            if together and (num_slices + needed) * QPARAM_BYTES > self._workers.max_memory:
                yield together
                together, num_slices = [], 0
            together.append(column)
            num_slices += needed
        yield together

    def measure(self, settings: Sequence[_Column], on_bytes: Callable[[int], None]) -> list[Measurement]:
        """Return the measurement under each setting."""
        others = [column for column in settings if not has_histogram(self._info, column.layout)]
        for column in others:
            check_slices(self._info, column.layout, self._workers, per_slice=False)
        found = self._by_patterns([column for column in settings if has_histogram(self._info, column.layout)])
        known = self._known([column for column in others if not has_one_pass(column.layout, self._blocks)])

        def apply(block: Block) -> list[_Part]:
            parts = self._apply(others, known, block)
            on_bytes((block[1] - block[0]) * self._info.dtype.bits // 8)
            return parts

        if others:
            by_block = self._workers.map(apply, self._blocks)
            for number, column in enumerate(others):
                parts = [of_block[number] for of_block in by_block]
                layout, of_column = column.layout, known.get(column)
                if of_column is None:
                    found[column] = measured_in_one_pass(layout, [p for p in parts if isinstance(p, BlockPart)])
                else:
                    rows = [p for p in parts if not isinstance(p, BlockPart)]
                    found[column] = measured_in_two_passes(layout, rows, of_column.ranges, of_column.params)
        else:
            on_bytes(self._info.nbytes)
        return [found[column] for column in settings]

    def _by_patterns(self, settings: Sequence[_Column]) -> dict[_Column, Measurement]:
        if not settings:
            return {}
        histogram = count_patterns(self._reader, self._info, self._workers)
        return {
            column: measured_by_patterns(
                histogram, column.spec, column.given, column.layout, self._info, self._workers
            )[0]
            for column in settings
        }

    def _known(self, settings: Sequence[_Column]) -> dict[_Column, _Known]:
        """Return the ranges and qparams of settings whose slices are too long to measure within a block."""
        by_key: dict[object, Floats] = {}
        found = {}
        for column in settings:
            key, layout = column.ranges_key, column.layout
            if key not in by_key:
                ranges = given_ranges(column.given, 0, layout.num_slices, self._dtype, column.spec.compute_dtype)
                if ranges is None:
                    ranges = estimate_ranges(column.spec, self._reader, self._info, layout, self._workers)
                by_key[key] = ranges
            params = self._workers.backend.quant_params(by_key[key], column.spec, layout, 0, self._dtype)
            overall_range = measured_overall_range(column.spec, by_key[key])
            found[column] = _Known(ranges=by_key[key], params=params, overall_range=overall_range)
        return found

    def _apply(self, settings: Sequence[_Column], known: Mapping[_Column, _Known], block: Block) -> list["_Part"]:
        """Read one block, with the rest of the short slices at its edges, and apply every setting."""
        start, stop = block
        backend, dtype = self._workers.backend, self._dtype
        needs = [block if column in known else column.layout.whole_slices(start, stop) for column in settings]
        lo, hi = min(first for first, _ in needs), max(last for _, last in needs)
        x = read_block(self._reader, self._info, self._workers, "input", (lo, hi))
        nothing = self._workers.buffer("output", STORAGE[dtype], 0)
        by_key: dict[object, Floats] = {}
        extremes: OverallRange | None = None
        parts: list[_Part] = []
        for column, (first, last) in zip(settings, needs, strict=True):
            layout, own, of_column = column.layout, x[first - lo : last - lo], known.get(column)
            if of_column is None:
                of_column = self._known_of_block(column, by_key, own, first)
            rows = backend.quantize_and_sum(own, nothing, first, start, stop, layout, of_column.params, keep=False)
            overall_range = of_column.overall_range
            if overall_range is None:
                overall_range = extremes = extremes or backend.extremes(x, dtype)
            rows[0, [columns.INPUT_MIN, columns.INPUT_MAX]] = overall_range
            if column in known:
                parts.append(rows)
            else:
                degenerate = of_column.params.degenerate
                slices = block_slices(of_column.ranges, degenerate, None, continues=first < start)
                parts.append(BlockPart(rows=rows, slices=slices))
        return parts

    def _known_of_block(self, column: _Column, by_key: dict[object, Floats], x: Stored, first: int) -> _Known:
        """Return ranges and qparams of the whole slices `x`, which begin at element `first`."""
        layout, spec, key = column.layout, column.spec, column.ranges_key
        number = layout.slice_of(first)
        if key not in by_key:
            num_slices = layout.slice_of(first + len(x) - 1) + 1 - number
            ranges = given_ranges(column.given, number, num_slices, self._dtype, spec.compute_dtype)
            if ranges is None:
                ranges = ranges_in_memory(estimator_of(spec, self._dtype, self._workers), x, first, layout)
            by_key[key] = ranges
        params = self._workers.backend.quant_params(by_key[key], spec, layout, number, self._dtype)
        return _Known(ranges=by_key[key], params=params, overall_range=measured_overall_range(spec, by_key[key]))


_Part = BlockPart | NDArray[np.float64]
"""Measurement of a block: with its slices, or only the sums where their qparams are known."""
