"""One tensor, block by block, under one setting or many: range, qparams, fake quantization, error sums.

A block is whole chunks of the tensor, read once: every setting is applied to it while it is in the cache. Where every
slice is short, it is read together with the rest of the slices at its edges, and all happens in the buffer. Otherwise a
first pass over all blocks finds the ranges and a second one reads them again, mostly from the page cache. A large
16-bit tensor with one range is measured in a single pass, from its pattern counts. Memory does not grow with the tensor
but for the ranges of its slices, which settings that differ in the grid alone share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from qdqcli.measure.blocks import (
    QPARAM_BYTES,
    Block,
    InMemory,
    blocks_of,
    check_slices,
    has_histogram,
    has_one_pass,
    output_block,
    read_block,
    write_block,
)
from qdqcli.measure.estimate import count_patterns, estimate_ranges, estimator_of, ranges_in_memory
from qdqcli.measure.given_range import GivenRange, given_ranges
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import (
    BlockPart,
    BlockSlices,
    Measurement,
    OverallRange,
    block_slices,
    error_sums,
    measured_blocks,
    overall_range_of,
)
from qdqcli.measure.workers import Workers
from qdqcli.op.columns import INPUT_MAX, INPUT_MIN, empty_sums
from qdqcli.op.histogram import PatternHistogram
from qdqcli.op.layout import Layout
from qdqcli.op.params import Floats, QuantParams, SettingsParams, Stored
from qdqcli.op.spec import ComputeDType, QuantSpec, RoundMode
from qdqcli.stats.sums import ErrorSums
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter
from qdqcli.tensors.tensor import TensorInfo

_GRIDLESS = ("minmax", "percentile")
"""Estimators whose ranges do not depend on the codes."""


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
    check_slices(job.info, layout, workers, per_slice=job.per_slice)
    work = TensorWork(
        info=job.info,
        reader=job.reader,
        writer=job.writer,
        per_slice=job.per_slice and layout.num_slices > 1,
        on_bytes=job.on_bytes,
        workers=workers,
        blocks=blocks_of(job.info, workers),
    )
    (measured,) = work.measure([TensorSetting(spec=job.spec, given=job.given_range, layout=layout)])
    if job.per_slice and layout.num_slices == 1:  # the tensor is its only slice
        return measured._replace(slice_sums=[measured.sums])
    return measured


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
    each = [TensorSetting(spec=spec, given=given, layout=layout_of(info, spec)) for spec, given in settings]
    for setting in each:
        check_slices(info, setting.layout, workers, per_slice=False)
    work = TensorWork(info=info, reader=reader, workers=workers, blocks=blocks_of(info, workers), on_bytes=on_bytes)
    found: list[Measurement] = []
    for together in _fitting(each, work.blocks, workers.max_memory):
        found += (replace(work, on_bytes=lambda _: None) if found else work).measure(together)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorSetting:
    """One setting of a tensor."""

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


def _fitting(
    settings: Sequence[TensorSetting], blocks: Sequence[Block], max_memory: int
) -> Iterator[list[TensorSetting]]:
    """Yield runs of settings whose ranges and qparams fit into memory together."""
    together: list[TensorSetting] = []
    num_slices = 0
    for setting in settings:
        needed = 0 if has_one_pass(setting.layout, blocks) else setting.layout.num_slices
        if together and (num_slices + needed) * QPARAM_BYTES > max_memory:
            yield together
            together, num_slices = [], 0
        together.append(setting)
        num_slices += needed
    yield together


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Ranges and qparams of some slices under settings of one kind."""

    ranges: Sequence[Floats]
    extremes: Sequence[OverallRange | None]
    """Those of the elements, where measuring the ranges found them; infinite bounds hide finite extremes."""
    params: SettingsParams
    slice_rows: NDArray[np.float64] | None
    """Sums of each slice (slices, SUM_COLUMNS), if requested."""

    def slices(self, setting: int, *, continues: bool) -> BlockSlices:
        degenerate = self.params.each[setting].degenerate
        return block_slices(self.ranges[setting], degenerate, self.slice_rows, continues=continues)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Settings that one kernel takes together: those of the same layout and kind of op."""

    settings: Sequence[TensorSetting]
    layout: Layout
    known: _Known | None
    """Of all slices, before blocks are read; None where those of a block follow from it."""
    is_one_call: bool
    """True where one call measures, quantizes and sums the slices of a block, if their elements are finite."""


@dataclass(frozen=True, kw_only=True)
class TensorWork:
    """A tensor, and where its blocks are read from and go to."""

    info: TensorInfo
    reader: ShardReader | InMemory
    writer: ShardWriter | InMemory | None = None
    """For the outputs under the only setting."""
    per_slice: bool = False
    """Also sum the errors of each slice, under the only setting."""
    on_bytes: Callable[[int], None] = lambda _: None
    workers: Workers
    blocks: Sequence[Block]
    total_bytes: int = 0
    """Size of an output in memory."""

    def measure(self, settings: Sequence[TensorSetting]) -> list[Measurement]:
        """Return the measurement under each setting."""
        if not self.info.num_elements:
            return [Measurement(sums=ErrorSums(), num_slices=0) for _ in settings]
        counted: list[TensorSetting] = []
        by_kind: dict[tuple[Layout, bool, RoundMode, ComputeDType], list[TensorSetting]] = {}
        for setting in settings:
            if has_histogram(self.info, setting.layout):
                counted.append(setting)
            else:
                spec = setting.spec
                kind = setting.layout, spec.is_range_given, spec.round_mode, spec.compute_dtype
                by_kind.setdefault(kind, []).append(setting)
        found = self._by_patterns(counted, is_last=not by_kind) if counted else {}
        ranges_of: dict[object, Floats] = {}
        groups = []
        for (layout, is_range_given, *_), alike in by_kind.items():
            known = None if has_one_pass(layout, self.blocks) else self._known(alike, ranges_of)
            is_one_call = known is None and not is_range_given and not self.per_slice
            groups.append(_Group(settings=alike, layout=layout, known=known, is_one_call=is_one_call))
        apply = partial(self._apply, groups)
        if self.per_slice and groups[0].known is not None:  # a slice's elements are added in the tensor's order
            by_block = [part for block in self.blocks for part in self.workers.map(apply, [block])]
        else:
            by_block = self.workers.map(apply, self.blocks if groups else [])
        for group in groups:
            for k, setting in enumerate(group.settings):
                parts = [of_block[setting] for of_block in by_block]
                slices = [part.slices for part in parts if part.slices is not None]
                if group.known is not None:
                    slices = [group.known.slices(k, continues=False)]
                found[setting] = measured_blocks(group.layout, [part.rows for part in parts], slices)
        return [found[setting] for setting in settings]

    def _by_patterns(self, settings: Sequence[TensorSetting], *, is_last: bool) -> dict[TensorSetting, Measurement]:
        """Measure a large 16-bit tensor with one range: a single read counts its patterns, which give all sums."""
        on_bytes = self.on_bytes if is_last and self.writer is None else lambda _: None
        histogram = count_patterns(self.reader, self.info, self.workers, on_bytes)
        found = {}
        for setting in settings:
            found[setting], params = self._of_patterns(histogram, setting)
            if self.writer is not None:
                self.workers.map(partial(self._write_quantized, setting.layout, params), self.blocks)
        return found

    def _of_patterns(self, histogram: PatternHistogram, setting: TensorSetting) -> tuple[Measurement, QuantParams]:
        spec, layout, dtype = setting.spec, setting.layout, self.info.dtype.name
        ranges = given_ranges(setting.given, 0, 1, dtype, spec.compute_dtype)
        if ranges is None:
            ranges = estimator_of(spec, dtype, self.workers).of_patterns(histogram)
        params = self.workers.backend.quant_params(ranges, spec, layout, 0, dtype)
        sums = error_sums([histogram.error_sums(params)], layout.num_elements, int(params.degenerate.sum()))
        return Measurement(sums=sums, overall_range=overall_range_of(ranges), num_slices=1), params

    def _write_quantized(self, layout: Layout, params: QuantParams, block: Block) -> None:
        """Write one block; its range and statistics are already known."""
        assert self.writer is not None
        start = block[0]
        x = read_block(self.reader, self.info, self.workers, "input", block)
        y = output_block(self.writer, self.workers, x, start)
        self.workers.backend.quantize(x, y, start, *block, layout, params)
        self.on_bytes(y.nbytes)
        write_block(self.writer, self.info, y, start)

    def _known(
        self,
        settings: Sequence[TensorSetting],
        ranges_of: dict[object, Floats],
        block: tuple[Stored, int] | None = None,
    ) -> _Known:
        """Return ranges and qparams of all slices, or of those in a block: its elements, and the index of the first.

        `ranges_of` holds ranges by `TensorSetting.ranges_key`.
        """
        layout, dtype, workers = settings[0].layout, self.info.dtype.name, self.workers
        first, last = 0, layout.num_slices
        if block is not None:
            x, start = block
            first, last = layout.slice_of(start), layout.slice_of(start + len(x) - 1) + 1

        def ranges_under(spec: QuantSpec, given: GivenRange | None) -> Floats:
            ranges = given_ranges(given, first, last - first, dtype, spec.compute_dtype)
            if ranges is not None:
                return ranges
            if block is None:
                return estimate_ranges(spec, self.reader, self.info, layout, workers)
            return ranges_in_memory(estimator_of(spec, dtype, workers), x, start, layout)

        for setting in settings:
            if setting.ranges_key not in ranges_of:
                ranges_of[setting.ranges_key] = ranges_under(setting.spec, setting.given)
        ranges_each = [ranges_of[setting.ranges_key] for setting in settings]
        pairs = list(zip(settings, ranges_each, strict=True))
        each = [workers.backend.quant_params(ranges, setting.spec, layout, first, dtype) for setting, ranges in pairs]
        return _Known(
            ranges=ranges_each,
            extremes=[_extremes(setting.spec, ranges) for setting, ranges in pairs],
            params=SettingsParams(each=each),
            slice_rows=empty_sums(last - first) if self.per_slice else None,
        )

    def _apply(self, groups: Sequence[_Group], block: Block) -> dict[TensorSetting, BlockPart]:
        """Read one block, with the rest of the short slices at its edges, and apply every setting."""
        start, stop = block
        needs = [block if group.known else group.layout.whole_slices(start, stop) for group in groups]
        lo, hi = min(first for first, _ in needs), max(last for _, last in needs)
        x = read_block(self.reader, self.info, self.workers, "input", (lo, hi))
        y = x[:0] if self.writer is None else output_block(self.writer, self.workers, x, lo)
        ranges_of: dict[object, Floats] = {}
        parts: dict[TensorSetting, BlockPart] = {}
        for group, (first, last) in zip(groups, needs, strict=True):
            own, done = x[first - lo : last - lo], None
            if group.is_one_call:
                specs = [setting.spec for setting in group.settings]
                done = self.workers.backend.fake_quantize_and_sum(
                    own, y, first, start, stop, group.layout, specs, self.info.dtype.name,
                    keep=self.writer is not None, total_bytes=self.total_bytes,
                )  # fmt: skip
            if done is None:
                parts |= self._in_steps(group, own, y, first, block, ranges_of)
                continue
            for setting, sums in zip(group.settings, done, strict=True):
                slices = block_slices(sums.ranges, sums.degenerate, None, continues=first < start)
                parts[setting] = BlockPart(rows=sums.sums, slices=slices)
        self.on_bytes((stop - start) * x.itemsize)
        if self.writer is not None:
            write_block(self.writer, self.info, y[start - lo : stop - lo], start)
        return parts

    def _in_steps(
        self, group: _Group, x: Stored, y: Stored, first: int, block: Block, ranges_of: dict[object, Floats]
    ) -> dict[TensorSetting, BlockPart]:
        """Quantize and sum with the qparams of all slices, or with those of the slices `x`, from element `first` on."""
        backend, keep, layout = self.workers.backend, self.writer is not None, group.layout
        known = group.known or self._known(group.settings, ranges_of, (x, first))
        all_rows = backend.quantize_and_sum(
            x, y, first, *block, layout, known.params, keep=keep, total_bytes=self.total_bytes
        )
        found: OverallRange | None = None
        for rows, extremes in zip(all_rows, known.extremes, strict=True):
            if extremes is None:
                extremes = found = found or backend.extremes(x, self.info.dtype.name)
            rows[0, [INPUT_MIN, INPUT_MAX]] = extremes  # they merge, so any row will do
        if known.slice_rows is not None:  # all that was read, of which `y` holds only the block so far
            whole, here, (params,) = y if keep else np.empty_like(x), (first, first + len(x)), known.params.each
            backend.quantize(x, whole, first, *here, layout, params)
            backend.sum_slices(x, whole, first, *here, layout, params, known.slice_rows)
        return {
            setting: BlockPart(rows=rows, slices=None if group.known else known.slices(k, continues=first < block[0]))
            for k, (setting, rows) in enumerate(zip(group.settings, all_rows, strict=True))
        }


def _extremes(spec: QuantSpec, ranges: Floats) -> OverallRange | None:
    lo, hi = overall_range_of(ranges)
    return (lo, hi) if not spec.is_range_given and isfinite(lo) and isfinite(hi) else None
