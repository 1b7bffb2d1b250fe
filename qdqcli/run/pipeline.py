"""Pipeline over many tensors: checkpoints and a recipe become rows of a report and, optionally, an output."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from qdqcli.errors import Interrupted, QdqError, UsageError
from qdqcli.escape import show_path
from qdqcli.measure.estimate import count_zero_slices
from qdqcli.measure.given_range import GivenRange
from qdqcli.measure.layout import layout_of
from qdqcli.measure.sums import Measurement
from qdqcli.measure.tensor import TensorJob, check_slices, quantize_tensor
from qdqcli.measure.workers import Item, Result, Workers
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Decision, Skip
from qdqcli.recipe.file_ref import keys_of, split_pattern
from qdqcli.recipe.patterns import Holders, holders_of, listed, nearest_names
from qdqcli.recipe.plan import Plan, inputs_of, notes_of, settings_of
from qdqcli.result.channels import Channels
from qdqcli.result.result import Row, RunResult, SkippedTensor, TensorResult, with_shares
from qdqcli.run.batch import Task, measure_batch
from qdqcli.run.driver import drive_in_two
from qdqcli.run.record import record_rows
from qdqcli.stats.metrics import METRICS
from qdqcli.tensors.checkpoint import ShardReader, ShardWriter, Waiting, copy_tensor
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.tensor import TensorInfo

if TYPE_CHECKING:  # 3 ms, for outputs and clusters alone
    from qdqcli.output.tree import OutputTree
    from qdqcli.run.distribute import Distribution
    from qdqcli.run.journal import Journal

BATCH_BYTES = 512 << 10
"""Maximum bytes of consecutive tensors in one task."""
SPREAD_BYTES = 32 << 20
"""Tensors larger than this are always shared by all workers."""
TINY_BYTES = 64 << 10
"""Tensors smaller than this gain nothing from a second thread."""
PART_BYTES = 512 << 20
"""Bytes of a large file flushed to the disk together, whole tensors: a resumed run finds them done."""


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


def check_ranges(plans: Sequence[Plan], ranges: Ranges, source: str, *, allow_unmatched: bool) -> list[str]:
    """Check that the ranges of the file `source` and the quantized tensors match; returns warnings.

    Raises:
        UsageError: a quantized tensor has no range or another number of slices; a range belongs to no tensor (a warning
            with `allow_unmatched`).
    """
    holders = holders_of((tensor.name, plan.file) for plan in plans for tensor in plan.shard.tensors)
    quantized = [
        (tensor, spec, next((key for key in keys_of(tensor.name, plan.file) if key in ranges), None))
        for plan in plans
        for tensor, spec in plan.tensors
        if isinstance(spec, QuantSpec) and spec.range_given and spec.given_range is None
    ]
    missing = [tensor.name for tensor, _, key in quantized if key is None]
    if missing:
        raise UsageError(
            f"{source}: no range for {listed(missing)}{nearest_names(missing[0], ranges)}; add one, or --exclude the "
            "tensor"
        )
    used: set[str] = set()
    for tensor, spec, key in quantized:
        assert key is not None
        used.add(key)
        slices = layout_of(tensor, spec).num_ranges
        given = np.size(ranges[key][0])
        if np.ndim(ranges[key][0]) and given != slices:
            raise UsageError(
                f"{source}: {listed([key])} has {given} ranges there and {slices} with these settings; "
                "--axis and --group-size must be those that the ranges are for"
            )
    notes = []
    idle = [key for key in ranges if key not in used]
    unknown = [key for key in idle if not _is_key(key, holders)]
    if unknown:
        notes.append(f"{source}: ranges for {listed(unknown)}, which no input has{nearest_names(unknown[0], holders)}")
        if not allow_unmatched:
            raise UsageError(f"{notes[0]}; --allow-unmatched makes this a warning")
    idle = [key for key in idle if _is_key(key, holders)]
    if idle:
        notes.append(f"{source}: ranges for {listed(idle)} are not used: nothing is quantized with them")
    return notes


def _is_key(key: str, holders: Holders) -> bool:
    """Tell whether the key of a ranges file names an existing tensor."""
    file, name = split_pattern(key)
    return key in holders or any(file == spelling for holder in holders.get(name, ()) for spelling in holder.spellings)


def run_plans(
    plans: Sequence[Plan],
    measuring: Measuring,
    workers: Workers,
    output: "OutputTree | None" = None,
    journal: "Journal | None" = None,
    distribution: "Distribution | None" = None,
) -> list[Row]:
    """Execute the plans, here or on a cluster; with an output, write its shards, each whole, and copy side files.

    With a journal, finished work is not repeated, and new work is recorded.

    Raises:
        QdqError: what failed, with the file; the caller's output tree removes what was built.
    """
    _check_memory(plans, measuring, workers)
    if journal is not None and journal.is_committed:
        return [row for i, plan in enumerate(plans) for row in journal.rows(i, plan)]
    try:
        if distribution is None:
            found = _run_here(plans, measuring, workers, output, journal)
        else:
            found = distribution.run_shards(plans, measuring, output, journal)
        if output is not None:
            output.copy_side_files(workers.interruption.check)
        if journal is not None:
            journal.add_built()
    except QdqError as error:
        if output is not None and isinstance(error, Interrupted):
            error.advise(f"{show_path(output.output)} was not written")
        if journal is not None and journal.has_progress:
            error.advise(f"{journal.num_finished} of {len(plans)} files are finished, --resume goes on from here")
        raise
    return [row for _, rows in sorted(found.items()) for row in rows]


def result_of(command: str, plans: Sequence[Plan], settings: Mapping[str, object], rows: Sequence[Row]) -> RunResult:
    """Return the rows as a RunResult under the names of their inputs."""
    return RunResult(
        command=command,
        inputs=inputs_of(plans),
        settings=settings_of(plans, settings),
        rows=with_shares(rows),
        notes=notes_of(plans),
    )


def _check_memory(plans: Sequence[Plan], measuring: Measuring, workers: Workers) -> None:
    """Refuse tensors that do not fit into memory, before any work; checks the most demanding first."""
    kinds = {
        (tensor.shape, tensor.dtype.name, tensor.fortran_order, id(decision)): (tensor, decision)
        for plan in plans
        for tensor, decision in plan.tensors
        if isinstance(decision, QuantSpec)
    }
    layouts = [(tensor, layout_of(tensor, spec)) for tensor, spec in kinds.values()]
    for tensor, layout in sorted(layouts, key=lambda found: -found[1].num_slices):
        check_slices(tensor, layout, workers, per_slice=measuring.per_slice)


def _run_here(
    plans: Sequence[Plan],
    measuring: Measuring,
    workers: Workers,
    output: "OutputTree | None",
    journal: "Journal | None",
) -> dict[int, list[Row]]:
    """Run one shard after the other; each is shared by the threads, and one is sent to a store beside the next."""
    found: dict[int, list[Row]] = {}
    begin = partial(_begin_plan, measuring, workers, output, journal)
    numbered = list(enumerate(plans))
    if output is not None and output.is_remote:
        drive_in_two(begin, list(enumerate(numbered)), found.__setitem__, workers.interruption, max_failures=1)
        return found
    for index, plan in numbered:
        found[index] = begin((index, plan))()
        workers.interruption.check()
    return found


def _begin_plan(
    measuring: Measuring,
    workers: Workers,
    output: "OutputTree | None",
    journal: "Journal | None",
    numbered: tuple[int, Plan],
) -> Callable[[], list[Row]]:
    """Work on a shard until its output is whole; the returned function commits it, and returns the rows."""
    index, plan = numbered
    done = None if journal is None else journal.progress(index)
    rows = [] if journal is None else journal.rows(index, plan)
    measuring.on_bytes(sum(tensor.nbytes for tensor in plan.shard.tensors[: len(rows)]))
    if done is not None and done.finished is not None:
        return lambda: rows
    with ExitStack() as undo:
        reader = undo.enter_context(plan.shard.open())
        unfinished = None if done is None else done.unfinished
        writer = None if output is None else output.create(plan.checkpoint, plan.shard, reader, unfinished)
        parts = None if journal is None or writer is None else _Parts(index, writer, journal)
        if writer is not None:
            undo.callback(writer.abort if parts is None else parts.leave)
        job = ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader, writer=writer, parts=parts)
        rows += job.run(len(rows))
        if parts is not None:
            parts.settle()
        reader.close()  # raises if the input changed meanwhile, before the output is committed
        later = undo.pop_all()

    def commit() -> list[Row]:
        with later:
            if writer is not None:
                writer.commit()
            if journal is not None and output is not None:
                finished = output.identity_of(plan.checkpoint, plan.shard)
                if finished is not None:
                    journal.add_shard(index, record_rows(rows[journal.progress(index).num_rows :]), finished)
        return rows

    return commit


def measure_shard(
    plan: Plan, measuring: Measuring, workers: Workers, reader: ShardReader, writer: ShardWriter | None = None
) -> list[Row]:
    """Measure one shard; quantized tensors go to the writer, if there is one, which is not committed."""
    return ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader, writer=writer).run()


class _Parts:
    """Shard output that becomes durable part by part. A part is flushed while the next one is computed."""

    def __init__(self, index: int, writer: ShardWriter, journal: "Journal") -> None:
        self._index, self._writer, self._journal = index, writer, journal
        self._rows: list[Row] = []
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="qdq-flush")
        self._flushing: Future[Waiting | None] | None = None

    def flush(self, rows: Sequence[Row]) -> None:
        """Start to flush everything written so far; `rows` are those since the last part."""
        self.settle()
        self._rows += rows
        self._flushing = self._flusher.submit(self._writer.sync)

    def settle(self) -> None:
        """Wait for the flush, and record in the journal what is on the disk."""
        if self._flushing is None:
            return
        waiting, self._flushing = self._flushing.result(), None
        if waiting is not None:
            self._journal.add_part(self._index, self._rows, waiting)
            self._rows = []

    def leave(self) -> None:
        """Keep an unfinished file that has parts on the disk, remove any other; does nothing once it is finished."""
        self._flusher.shutdown()
        if self._journal.progress(self._index).unfinished is None:
            self._writer.abort()
        else:
            self._writer.suspend()


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Tensors of an open shard. Small ones are processed one batch per worker; large ones are shared by all workers."""

    plan: Plan
    measuring: Measuring
    workers: Workers
    reader: ShardReader
    writer: ShardWriter | None
    parts: _Parts | None = None
    """Set where the output becomes durable part by part."""

    def run(self, first: int = 0) -> list[Row]:
        """Return the rows in the order of the shard's tensors, from index `first` on."""
        self.read_ahead(first)
        rows: list[Row] = []
        flushed = 0
        batches = self.batches(first)
        for part in [batches] if self.parts is None else _in_parts(batches):
            if self.parts is not None and rows:
                self.parts.flush(rows[flushed:])
                flushed = len(rows)
            rows += chain.from_iterable(self.map(lambda batch: batch, self._run_batch, part))
        return rows

    def read_ahead(self, first: int = 0) -> None:
        """Say which tensors of a remote shard will be read."""
        if not isinstance(self.plan.shard.path, RemotePath):
            return
        self.reader.read_ahead(
            (
                tensor
                for tensor, decision in islice(self.plan.tensors, first, None)
                if self.writer is not None or not isinstance(decision, Skip)
            ),
            self.workers.spare_memory,
        )

    def map(
        self, batch_of: Callable[[Item], Sequence[Task]], function: Callable[[Item], Result], items: Iterable[Item]
    ) -> list[Result]:
        """Apply a function to items, in workers where that is faster; `batch_of` returns an item's tensors."""
        futures: list[Future[Result]] = []
        try:
            for item in items:
                batch = batch_of(item)
                if self._is_spread(batch[0][0]) or _is_tiny(batch):
                    futures.append(_done(function(item)))  # in this thread, not in a worker
                else:
                    futures.append(self.workers.submit(function, item))
        except BaseException:
            self.workers.drop(futures)
            raise
        return self.workers.settle(futures)

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

    def _is_spread(self, tensor: TensorInfo) -> bool:
        """Tell whether all workers share the tensor: a single one would still be busy when the others are done."""
        fair_share = self.plan.nbytes // (4 * self.workers.num_threads)
        return tensor.nbytes > max(min(fair_share, SPREAD_BYTES), BATCH_BYTES)

    def _run_batch(self, batch: Sequence[Task]) -> list[Row]:
        measured = self.measure_at_once(batch)
        if measured is None:
            return [self.run_tensor(tensor, decision) for tensor, decision in batch]
        self.workers.interruption.check()
        return [
            self.run_tensor(tensor, decision)
            if found is None or isinstance(decision, Skip)
            else self.row_of(tensor, decision, found)
            for (tensor, decision), found in zip(batch, measured, strict=True)
        ]

    def measure_at_once(self, batch: Sequence[Task]) -> list[Measurement | None] | None:
        """Measure the small tensors of the batch in one kernel call; None where that is not possible."""
        if len(batch) < 2 or self.measuring.per_slice or not self.workers.backend.takes_batches:
            return None
        measured = measure_batch(batch, self.reader, self.writer, self.workers)
        done = sum(tensor.nbytes for (tensor, _), found in zip(batch, measured, strict=True) if found is not None)
        self.measuring.on_bytes(done)
        return measured

    def run_tensor(self, tensor: TensorInfo, decision: Decision) -> Row:
        self.workers.interruption.check()
        if isinstance(decision, Skip):
            if self.writer is not None:
                copy_tensor(tensor, self.reader, self.writer, self.workers.interruption.check)
            self.measuring.on_bytes(tensor.nbytes)
            return SkippedTensor(
                source=self.plan.source_of(tensor),
                num_elements=tensor.num_elements,
                reason=decision.reason,
                is_selected=decision.is_selected,
            )
        job = TensorJob(
            info=tensor,
            spec=decision,
            given_range=self.measuring.range_of(self.plan, tensor, decision),
            per_slice=self.measuring.per_slice,
            reader=self.reader,
            writer=self.writer,
            on_bytes=self.measuring.on_bytes,
        )
        return self.row_of(tensor, decision, quantize_tensor(job, self.workers))

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
            None if isnan(lo) else lo,
            None if isnan(hi) else hi,
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


def _in_parts(batches: Iterable[list[Task]]) -> Iterator[Iterable[list[Task]]]:
    """Yield the batches PART_BYTES at a time."""
    part: list[list[Task]] = []
    nbytes = 0
    for batch in batches:
        part.append(batch)
        nbytes += sum(tensor.nbytes for tensor, _ in batch)
        if nbytes >= PART_BYTES:
            yield part
            part, nbytes = [], 0
    if part:
        yield part


def _is_tiny(batch: Sequence[Task]) -> bool:
    """Tell whether Python's overhead exceeds the kernels' time: threads would only wait for one another."""
    return sum(tensor.nbytes for tensor, _ in batch) < TINY_BYTES * len(batch)


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future
