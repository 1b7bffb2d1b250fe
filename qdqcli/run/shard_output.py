"""Output of a shard: durable part by part, whole before it is committed, and recorded in the journal."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from qdqcli.measure.workers import Workers
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.run.journal import Journal
from qdqcli.run.pipeline import Measuring, ShardJob
from qdqcli.run.record import record_rows
from qdqcli.tensors.checkpoint import ShardWriter, Waiting

PART_BYTES = 512 << 20
"""Bytes of a large file flushed to the disk together, whole tensors: a resumed run finds them done."""


def begin_shard(
    measuring: Measuring, workers: Workers, output: OutputTree, journal: Journal | None, numbered: tuple[int, Plan]
) -> Callable[[], list[Row]]:
    """Work on a shard until its output is whole; the returned function commits it, and returns the rows."""
    index, plan = numbered
    done = None if journal is None else journal.shards[index]
    rows: list[Row] = []
    if journal is not None and journal.shards[index].records:
        rows = journal.rows(index, plan)
        measuring.on_bytes(sum(tensor.nbytes for tensor in plan.shard.tensors[: len(rows)]))
    if done is not None and done.finished is not None:
        return lambda: rows
    with ExitStack() as undo:
        with plan.shard.open() as reader:  # to leave it raises if the input changed, before the output is committed
            writer = output.create(plan.checkpoint, plan.shard, reader, None if done is None else done.unfinished)
            parts = None if journal is None or plan.nbytes <= PART_BYTES else _Parts(index, writer, journal)
            undo.callback(writer.abort if parts is None else parts.leave)
            flush = None if parts is None else parts.flush
            job = ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader, writer=writer,
                           flush=flush, part_bytes=PART_BYTES)  # fmt: skip
            rows += job.run(len(rows))
            if parts is not None:
                parts.settle()
        later = undo.pop_all()

    def commit() -> list[Row]:
        with later:
            writer.commit()
            finished = None if journal is None else output.identity_of(plan.checkpoint, plan.shard)
            if journal is not None and finished is not None:
                journal.add(index, record_rows(rows[journal.shards[index].num_rows :]), finished=finished)
        return rows

    return commit


class _Parts:
    """Shard output that becomes durable part by part. A part is flushed while the next one is computed."""

    def __init__(self, index: int, writer: ShardWriter, journal: Journal) -> None:
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
            self._journal.add(self._index, record_rows(self._rows), unfinished=waiting)
            self._rows = []

    def leave(self) -> None:
        """Keep an unfinished file that has parts on the disk, remove any other; does nothing once it is finished."""
        self._flusher.shutdown()
        if self._journal.shards[self._index].unfinished is None:
            self._writer.abort()
        else:
            self._writer.suspend()
