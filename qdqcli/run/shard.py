"""Quantization of one shard by itself: what travels to another process or machine, and what comes back.

`process_shard` is idempotent: the shard's output and the file of its rows are complete or not there, a second call
finds them and returns the same, and two calls at once write the same bytes. Tensors do not travel.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli import errors
from qdqcli.errors import InputError, OutputError, QdqError
from qdqcli.escape import show_path
from qdqcli.interrupt import Interruption
from qdqcli.measure.given_range import GivenRange
from qdqcli.measure.workers import DEFAULT_MAX_MEMORY, Workers
from qdqcli.op.backend import backend
from qdqcli.op.spec import QuantSpec
from qdqcli.plain import Parsed
from qdqcli.recipe.decision import Decision, Resolution
from qdqcli.recipe.plan import Plan
from qdqcli.run.driver import TransientError
from qdqcli.run.journal import Target
from qdqcli.run.pipeline import Measuring, measure_shard
from qdqcli.run.record import record_rows
from qdqcli.tensors.checkpoint import Checkpoint, open_file
from qdqcli.tensors.storage import temporary_of

TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOLINK, errno.EREMOTEIO})
"""Errors of a network file system that another attempt may not meet."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Threads, memory and device of the process that works on a shard."""

    threads: int | None = None
    """Number of threads; None: one per core."""
    max_memory: int = DEFAULT_MAX_MEMORY
    """Bytes of buffers."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard, what is done to its tensors, and where the output goes. Less than a header: decisions are shared."""

    path: Path
    """Absolute path of the file."""
    name: str
    """Name in the checkpoint, for rows of the same shard."""
    void_dtype: str | None
    size: int
    """Size in bytes."""
    mtime_ns: int
    header: str
    """Hash of the header."""
    decisions: Sequence[Decision]
    """One decision per tensor."""
    ranges: Mapping[str, GivenRange]
    """Ranges from a file, by tensor."""
    per_slice: bool
    scale_bits: int
    resources: Resources
    target: Target | None
    """None: measure and write nothing."""


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """Outcome of a job. An error is a value: it would be the same elsewhere, so no engine should try again."""

    record: Parsed = field(default_factory=dict)
    """The rows, see `record_rows`."""
    size: int | None = None
    """Size of the output in bytes; None where none was written."""
    error: tuple[str, str] | None = None
    """Class and message of the error."""

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            kind, message = self.error
            raise getattr(errors, kind, QdqError)(message)


def job_of(
    plan: Plan, measuring: Measuring, resources: Resources, target: Target | None, void_dtype: str | None
) -> ShardTask:
    """Return the job that does what the plan says.

    Raises:
        InputError: the shard cannot be read.
    """
    ranges = {
        tensor.name: found
        for tensor, spec in plan.tensors
        if isinstance(spec, QuantSpec) and (found := measuring.range_of(tensor.name, plan.file, spec)) is not None
    }
    return ShardTask(
        path=plan.shard.path.absolute(),
        name=plan.shard.name,
        void_dtype=void_dtype,
        size=plan.shard.identity.size,
        mtime_ns=plan.shard.identity.mtime_ns,
        header=plan.shard.header_digest(),
        decisions=plan.decisions,
        ranges=ranges,
        per_slice=measuring.per_slice,
        scale_bits=measuring.scale_bits,
        resources=resources,
        target=target,
    )


def process_shard(
    job: ShardTask, workers: Workers | None = None, on_bytes: Callable[[int], None] = lambda _: None
) -> ShardResult:
    """Measure the shard and write its output, if it has a target; `workers` are made for it where not given.

    Raises:
        TransientError: the environment failed; another attempt may succeed.
    """
    try:
        found = None if job.target is None else job.target.finished()
        if found is not None:
            on_bytes(job.size)
            return ShardResult(record=found["record"], size=found["size"])
        if workers is not None:
            return _process(job, workers, on_bytes)
        resources = job.resources
        with Workers(resources.threads, resources.max_memory, Interruption(), backend(resources.device)) as own:
            return _process(job, own, on_bytes)
    except errors.Interrupted:
        raise
    except QdqError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in TRANSIENT:
            raise TransientError(error) from error
        return ShardResult(error=(type(error).__name__, str(error)))
    except MemoryError:
        message = f"{show_path(job.path)}: out of memory; lower --max-memory or --threads"
        return ShardResult(error=(OutputError.__name__, message))


def _process(job: ShardTask, workers: Workers, on_bytes: Callable[[int], None]) -> ShardResult:
    plan = _plan(job)
    measuring = Measuring(ranges=job.ranges, per_slice=job.per_slice, scale_bits=job.scale_bits, on_bytes=on_bytes)
    with plan.shard.open() as reader:
        if job.target is None:
            rows = measure_shard(plan, measuring, workers, reader)
            reader.close()
            return ShardResult(record=record_rows(rows))
        job.target.check_run()
        own = temporary_of(job.target.rows)
        writer = plan.shard.create(own, reader)
        try:
            rows = measure_shard(plan, measuring, workers, reader, writer)
            reader.close()  # raises if the input changed meanwhile
            writer.commit()
        finally:
            writer.abort()
    record = record_rows(rows)
    return ShardResult(record=record, size=job.target.publish(own, record))


def _plan(job: ShardTask) -> Plan:
    """Read the header again and return the plan, once the file is found to be the one that was planned.

    Raises:
        InputError: it is not.
    """
    shard = open_file(job.path, job.name, job.void_dtype)
    identity = shard.identity
    if (identity.size, identity.mtime_ns, shard.header_digest()) != (job.size, job.mtime_ns, job.header):
        raise InputError(f"{show_path(job.path)}: changed after it was first looked at; start again")
    checkpoint = Checkpoint(path=job.path, is_folder=False, shards=(shard,))
    resolutions = {id(decision): Resolution(decision=decision, settings={}) for decision in job.decisions}
    return Plan(
        checkpoint=checkpoint, shard=shard, resolutions=[resolutions[id(decision)] for decision in job.decisions]
    )
