"""One tensor under many settings: a block is read once, and every setting is applied to it while it is in the cache.

Settings that differ in the grid alone share their ranges. The figures are those of `quantize_tensor` with each setting.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import QPARAM_BYTES, Block, blocks_of, check_slices, has_histogram, has_one_pass, read_block
from qdqcli.measure.estimate import count_patterns, estimate_ranges, estimator_of, ranges_in_memory
from qdqcli.measure.given_range import GivenRange, given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import BlockPart, Measurement, OverallRange, block_slices, part_of
from qdqcli.measure.tensor import (
    measured_by_patterns,
    measured_in_one_pass,
    measured_in_two_passes,
    measured_overall_range,
)
from qdqcli.measure.workers import Workers
from qdqcli.op.columns import INPUT_MAX, INPUT_MIN
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, SettingsParams, Stored
from qdqcli.op.spec import DEFAULT_ESTIMATOR, QuantSpec, RoundMode
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

    @property
    def kind(self) -> object:
        """Key shared by the settings that one kernel takes together."""
        return self.layout, self.spec.is_range_given, self.spec.round_mode, self.spec.compute_dtype

    @property
    def is_measured(self) -> bool:
        """True for the op's own range."""
        return self.given is None and self.spec.estimator == DEFAULT_ESTIMATOR


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Ranges and qparams of some slices under settings of one kind."""

    ranges: Sequence[Floats]
    params: SettingsParams


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Settings of one kind."""

    columns: Sequence[_Column]
    known: _Known | None
    """Of all slices, before blocks are read; None where those of a block follow from it."""

    @property
    def layout(self) -> Layout:
        return self.columns[0].layout


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
        groups = self._groups(others)

        def apply(block: Block) -> dict[_Column, _Part]:
            parts = self._apply(groups, block)
            on_bytes((block[1] - block[0]) * self._info.dtype.bits // 8)
            return parts

        if groups:
            by_block = self._workers.map(apply, self._blocks)
            for group in groups:
                for k, column in enumerate(group.columns):
                    parts = [of_block[column] for of_block in by_block]
                    if group.known is None:
                        found[column] = measured_in_one_pass(
                            group.layout, [p for p in parts if isinstance(p, BlockPart)]
                        )
                    else:
                        rows, known = [p for p in parts if not isinstance(p, BlockPart)], group.known
                        found[column] = measured_in_two_passes(
                            group.layout, rows, known.ranges[k], known.params.each[k]
                        )
        else:
            on_bytes(self._info.nbytes)
        return [found[column] for column in settings]

    def _groups(self, settings: Sequence[_Column]) -> list[_Group]:
        """Return the settings that one kernel takes together: those of the same layout and kind of op."""
        ranges_of: dict[object, Floats] = {}
        by_kind: dict[object, list[_Column]] = {}
        for column in settings:
            by_kind.setdefault(column.kind, []).append(column)
        return [
            _Group(
                columns=columns,
                known=None if has_one_pass(columns[0].layout, self._blocks) else self._known(columns, ranges_of),
            )
            for columns in by_kind.values()
        ]

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

    def _known(
        self, columns: Sequence[_Column], ranges_of: dict[object, Floats], block: tuple[Stored, int] | None = None
    ) -> _Known:
        """Return ranges and qparams of all slices, or of those in a block: its elements, and the index of the first.

        `ranges_of` holds ranges by `_Column.ranges_key`.
        """
        layout, dtype, backend = columns[0].layout, self._dtype, self._workers.backend
        first, last = 0, layout.num_slices
        if block is not None:
            x, start = block
            first, last = layout.slice_of(start), layout.slice_of(start + len(x) - 1) + 1

        def ranges_under(spec: QuantSpec, given: GivenRange | None) -> Floats:
            ranges = given_ranges(given, first, last - first, dtype, spec.compute_dtype)
            if ranges is not None:
                return ranges
            if block is None:
                return estimate_ranges(spec, self._reader, self._info, layout, self._workers)
            return ranges_in_memory(estimator_of(spec, dtype, self._workers), x, start, layout)

        for column in columns:
            if column.ranges_key not in ranges_of:
                ranges_of[column.ranges_key] = ranges_under(column.spec, column.given)
        ranges_each = [ranges_of[column.ranges_key] for column in columns]
        each = [
            backend.quant_params(ranges, column.spec, layout, first, dtype)
            for ranges, column in zip(ranges_each, columns, strict=True)
        ]
        return _Known(ranges=ranges_each, params=SettingsParams(each=each))

    def _apply(self, groups: Sequence[_Group], block: Block) -> dict[_Column, "_Part"]:
        """Read one block, with the rest of the short slices at its edges, and apply every setting."""
        needs = [block if group.known else group.layout.whole_slices(*block) for group in groups]
        lo, hi = min(first for first, _ in needs), max(last for _, last in needs)
        x = read_block(self._reader, self._info, self._workers, "input", (lo, hi))
        ranges_of: dict[object, Floats] = {}
        parts: dict[_Column, _Part] = {}
        for group, (first, last) in zip(groups, needs, strict=True):
            own = x[first - lo : last - lo]
            columns = group.columns
            if group.known is None:
                parts |= self._in_one_call([column for column in columns if column.is_measured], own, first, block)
                columns = [column for column in columns if column not in parts]
            if columns:
                known = group.known or self._known(columns, ranges_of, (own, first))
                parts |= self._in_steps(columns, known, own, first, block, one_pass=group.known is None)
        return parts

    def _in_one_call(self, columns: Sequence[_Column], x: Stored, first: int, block: Block) -> dict[_Column, "_Part"]:
        """Measure, quantize and sum whole slices; returns nothing where that takes steps."""
        if not columns:
            return {}
        specs, layout, y = [column.spec for column in columns], columns[0].layout, x[:0]
        done = self._workers.backend.fake_quantize_and_sum(x, y, first, *block, layout, specs, self._dtype, keep=False)
        return {
            column: part_of(sums, continues=first < block[0]) for column, sums in zip(columns, done or (), strict=False)
        }

    def _in_steps(
        self, columns: Sequence[_Column], known: _Known, x: Stored, first: int, block: Block, *, one_pass: bool
    ) -> dict[_Column, "_Part"]:
        """Quantize and sum with known qparams."""
        parts: dict[_Column, _Part] = {}
        backend = self._workers.backend
        all_rows = backend.sum_settings(x, first, *block, columns[0].layout, known.params)
        extremes: OverallRange | None = None
        for column, rows, ranges, params in zip(columns, all_rows, known.ranges, known.params.each, strict=True):
            overall_range = measured_overall_range(column.spec, ranges)
            if overall_range is None:
                overall_range = extremes = extremes or backend.extremes(x, self._dtype)
            rows[0, [INPUT_MIN, INPUT_MAX]] = overall_range
            parts[column] = rows
            if one_pass:
                slices = block_slices(ranges, params.degenerate, None, continues=first < block[0])
                parts[column] = BlockPart(rows=rows, slices=slices)
        return parts


_Part = BlockPart | NDArray[np.float64]
"""Measurement of a block: with its slices, or only the sums where their qparams are known."""
