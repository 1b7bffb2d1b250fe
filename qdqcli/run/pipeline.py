"""Pipeline over the tensors of a shard, which become rows of a report and, optionally, its output."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from math import isnan

from qdqcli.measure.estimate import count_zero_slices
from qdqcli.measure.given_range import GivenRange
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import Measurement
from qdqcli.measure.tensor import TensorJob, quantize_tensor
from qdqcli.measure.workers import Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Skip
from qdqcli.recipe.file_ref import keys_of
from qdqcli.recipe.plan import Plan
from qdqcli.result.channels import Channels
from qdqcli.result.result import Row, SkippedTensor, TensorResult
from qdqcli.run.batch import Task, measure_batch
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter, copy_tensor
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.tensor import TensorInfo

BATCH_BYTES = 512 << 10
"""Maximum bytes of consecutive tensors in one task."""
SPREAD_BYTES = 32 << 20
"""Tensors larger than this are always shared by all workers."""
TINY_BYTES = 64 << 10
"""Tensors smaller than this gain nothing from a second thread."""

Ranges = Mapping[str, GivenRange]
"""Ranges from a file, by name or FILE#NAME."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Settings of the measurement and the given ranges."""

    ranges: Ranges | None = None
    per_slice: bool = False
    scale_bits: int = 16
    on_bytes: Callable[[int], None] = lambda _: None
    """Progress callback: receives the bytes of finished tensors or parts; called from any thread."""

    def range_of(self, plan: Plan, tensor: TensorInfo, spec: QuantSpec) -> GivenRange | None:
        """Return the given range of a tensor of the plan; None where it is measured."""
        if not spec.range_given or self.ranges is None or spec.given_range is not None:
            return spec.given_range
        return self.ranges[next(key for key in keys_of(tensor.name, plan.file) if key in self.ranges)]


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Tensors of an open shard. Small ones are processed one batch per worker; large ones are shared by all workers."""

    plan: Plan
    measuring: Measuring
    workers: Workers
    reader: ShardReader
    writer: ShardWriter | None = None
    """For the quantized tensors, and copies of the others; the caller commits it."""
    flush: Callable[[Sequence[Row]], None] | None = None
    """Set where the output becomes durable part by part: called with the rows of a part when the next begins."""
    part_bytes: int = 0
    """Bytes of the tensors of a part."""

    def run(self, first: int = 0) -> list[Row]:
        """Return the rows in the order of the shard's tensors, from index `first` on."""
        if isinstance(self.plan.shard.path, RemotePath):
            self.read_ahead(first)
        rows: list[Row] = []
        flushed = 0
        batches = self.batches(first)
        for part in [batches] if self.flush is None else _in_parts(batches, self.part_bytes):
            if self.flush is not None and rows:
                self.flush(rows[flushed:])
                flushed = len(rows)
            rows += chain.from_iterable(self.workers.map(self.run_batch, part, self.runs_in_caller))
        return rows

    def read_ahead(self, first: int = 0) -> None:
        """Say which tensors will be read."""
        self.reader.read_ahead(
            (
                tensor
                for tensor, decision in islice(self.plan.tensors, first, None)
                if self.writer is not None or not isinstance(decision, Skip)
            ),
            self.workers.spare_memory,
        )

    def batches(self, first: int = 0) -> Iterator[list[Task]]:
        """Yield consecutive tensors of up to BATCH_BYTES in total: a task costs as much as the work on 100 kB."""
        batch: list[Task] = []
        nbytes = 0
        for tensor, decision in islice(self.plan.tensors, first, None):
            if batch and nbytes + tensor.nbytes > BATCH_BYTES:
                yield batch
                batch, nbytes = [], 0
            batch.append((tensor, decision))
            nbytes += tensor.nbytes
        if batch:
            yield batch

    def runs_in_caller(self, batch: Sequence[Task]) -> bool:
        """Tell whether a batch is worked on in the calling thread, not in a worker.

        All workers share a large tensor: a single one would still be busy when the others are done. With tiny ones
        Python's overhead exceeds the kernels' time: threads would only wait for one another.
        """
        fair_share = self.plan.nbytes // (4 * self.workers.num_threads)
        is_spread = batch[0][0].nbytes > max(min(fair_share, SPREAD_BYTES), BATCH_BYTES)
        return is_spread or sum(tensor.nbytes for tensor, _ in batch) < TINY_BYTES * len(batch)

    def run_batch(self, batch: Sequence[Task]) -> list[Row]:
        """Return the rows of a batch: as many tensors as possible are measured in one kernel call, the others alone."""
        rows: list[Row] = []
        measuring = self.measuring
        at_once = self.measure_at_once(batch) if len(batch) > 1 else [None]
        for (tensor, decision), measured in zip(batch, at_once, strict=True):
            if isinstance(decision, Skip):
                rows.append(self.skip(tensor, decision))
                continue
            if measured is None:
                job = TensorJob(
                    info=tensor,
                    spec=decision,
                    given_range=measuring.range_of(self.plan, tensor, decision),
                    per_slice=measuring.per_slice,
                    reader=self.reader,
                    writer=self.writer,
                    on_bytes=measuring.on_bytes,
                )
                measured = quantize_tensor(job, self.workers)
            rows.append(self.row_of(tensor, decision, measured))
        return rows

    def measure_at_once(self, batch: Sequence[Task]) -> Sequence[Measurement | None]:
        """Measure the small tensors of the batch in one kernel call; None for each tensor left to the caller."""
        if self.measuring.per_slice or not self.workers.backend.takes_batches:
            return [None] * len(batch)
        measured = measure_batch(batch, self.reader, self.writer, self.workers)
        done = sum(tensor.nbytes for (tensor, _), found in zip(batch, measured, strict=True) if found is not None)
        self.measuring.on_bytes(done)
        return measured

    def skip(self, tensor: TensorInfo, decision: Skip) -> SkippedTensor:
        """Copy a tensor to the output, if there is one; returns its row."""
        if self.writer is not None:
            copy_tensor(tensor, self.reader, self.writer, self.workers.interruption.check)
        self.measuring.on_bytes(tensor.nbytes)
        return SkippedTensor(
            source=self.plan.source_of(tensor),
            num_elements=tensor.num_elements,
            reason=decision.reason,
            is_selected=decision.is_selected,
        )

    def row_of(self, tensor: TensorInfo, spec: QuantSpec, measured: Measurement) -> TensorResult:
        """Return the row of a measured tensor, with the number of all-zero slices: degenerate, but they lose nothing.

        They are rare: the tensor is read once more rather than counted by every kernel. One bit turns zeros into NaN.
        """
        channels = None
        if self.measuring.per_slice:
            # Without slice sums, the tensor is its only slice or, if it is empty, has none.
            slices = [measured.sums] * measured.num_slices if measured.slice_sums is None else measured.slice_sums
            channels = Channels({name: map(metric.value, slices) for name, metric in METRICS.items()})
        lo, hi = measured.overall_range
        row = TensorResult(
            self.plan.source_of(tensor),
            spec,
            None if isnan(lo) else lo + 0.0,  # -0 and +0 are equal: the order of the blocks must not show
            None if isnan(hi) else hi + 0.0,
            measured.num_slices,
            self.measuring.scale_bits,
            measured.sums,
            None,
            channels,
        )
        if not row.sums.num_degenerate or spec.range_given or not spec.quantized_max:
            return row
        num_zero = count_zero_slices(self.reader, tensor, layout_of(tensor, spec), self.workers)
        return row._replace(num_zero_slices=num_zero)


def _in_parts(batches: Iterable[list[Task]], part_bytes: int) -> Iterator[Iterable[list[Task]]]:
    """Yield the batches of each part."""
    part: list[list[Task]] = []
    nbytes = 0
    for batch in batches:
        part.append(batch)
        nbytes += sum(tensor.nbytes for tensor, _ in batch)
        if nbytes >= part_bytes:
            yield part
            part, nbytes = [], 0
    if part:
        yield part
