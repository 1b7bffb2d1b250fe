"""Work on one shard by itself: what travels to another process or machine, and what comes back.

Tasks are idempotent: what one writes is complete or not there, a second call finds it and returns the same, and two
calls at once write the same bytes. Tensors do not travel.
"""

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

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
from qdqcli.recipe.plan import Plan, decoded_inputs, file_of
from qdqcli.run.driver import TransientError
from qdqcli.run.journal import Target
from qdqcli.run.pipeline import Measuring, ShardJob
from qdqcli.run.record import record_rows
from qdqcli.tensors.checkpoint import Checkpoint, Shard, open_checkpoint, open_file
from qdqcli.tensors.remote_path import RemotePath

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
OnBytes = Callable[[int], None]

TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOLINK, errno.EREMOTEIO})
"""Errors of a network file system that another attempt may not meet."""


@dataclass(frozen=True, kw_only=True)
class WorkerResources:
    """Threads, memory and device of the process that works on a shard."""

    threads: int | None = None
    """Number of threads; None: one per core."""
    max_memory: int = DEFAULT_MAX_MEMORY
    """Bytes of buffers."""
    device: str = "cpu"

    @contextmanager
    def workers(self) -> Iterator[Workers]:
        """Yield workers with these resources, which nothing interrupts."""
        with Workers(self.threads, self.max_memory, Interruption(), backend(self.device)) as workers:
            yield workers


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Options with which the inputs were opened."""

    void_dtype: str | None = None
    """dtype of `.npy` elements of an unnamed kind."""
    follow_links: bool = False
    """Allow links that lead out of a folder."""


AS_THEY_ARE = Opening()


@dataclass(frozen=True, kw_only=True)
class ShardRef:
    """A shard as another process finds it. Smaller than a header."""

    path: Path
    """Absolute path of the file."""
    name: str
    """Name in the checkpoint, for rows of the same shard."""
    size: int
    """Size in bytes."""
    mtime_ns: int
    header: str
    """Hash of the header."""
    opening: Opening
    decoded: Sequence[Path] = ()
    """Absolute paths of the checkpoints, this shard's first, whose packed weights appear decoded; empty: none do."""

    @classmethod
    def of(cls, shard: Shard, checkpoints: Sequence[Checkpoint], opening: Opening) -> "ShardRef":
        """Return the reference to a shard of the first checkpoint; the others may hold parts of its weights.

        Raises:
            UsageError: the shard has a signed URL.
        """
        from qdqcli.tensors.packed.decoded import DecodedShard  # lazy: with all that decodes, which few runs need

        check_unsigned(shard)
        decoded = [checkpoint.path.absolute() for checkpoint in checkpoints] if isinstance(shard, DecodedShard) else []
        return cls(
            path=shard.path.absolute(),
            name=shard.name,
            size=shard.identity.size,
            mtime_ns=shard.identity.mtime_ns,
            header=shard.header_digest(),
            opening=opening,
            decoded=decoded,
        )

    def open(self) -> Checkpoint:
        """Read the header again; returns a checkpoint of this shard.

        Raises:
            InputError: it cannot be read, or the file is not the one that was planned.
        """
        if self.decoded:
            view = self._view()
            shard = next(shard for shard in view.shards if shard.name == self.name)
        else:
            shard = open_file(self.path, self.name, self.opening.void_dtype)
            view = Checkpoint(path=self.path, is_folder=False, shards=(shard,))
        identity = shard.identity
        if (identity.size, identity.mtime_ns, shard.header_digest()) != (self.size, self.mtime_ns, self.header):
            raise InputError(f"{show_path(self.path)}: changed after it was first looked at; start again")
        return replace(view, shards=(shard,))

    def _view(self) -> Checkpoint:
        """Return the checkpoint with its packed weights decoded."""
        opening = self.opening
        inputs = [
            open_checkpoint(path, void_dtype=opening.void_dtype, follow_links=opening.follow_links)
            for path in self.decoded
        ]
        return decoded_inputs(inputs)[0]


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Value]):
    """Result of a task. An error is a value: it would be the same elsewhere, so no engine should try again."""

    value: Value | None = None
    error: tuple[str, str] | None = None
    """Class and message of the error."""

    def get(self) -> Value:
        """Return the value, or raise the error."""
        if self.error is not None:
            kind, message = self.error
            raise getattr(errors, kind, QdqError)(message)
        assert self.value is not None
        return self.value


def check_unsigned(shard: Shard) -> None:
    """Refuse a shard that other processes cannot read.

    Raises:
        UsageError: it has a signed URL.
    """
    if isinstance(shard.path, RemotePath) and shard.path.is_signed:
        raise errors.UsageError(
            f"{show_path(shard.path)}: the signature of a URL is not passed on to other processes; leave out --part "
            "and --dask, or download the file"
        )


class Task(Protocol[Value_co]):
    """Work that any process can do."""

    @property
    def path(self) -> Path:
        """File that is worked on, for messages."""

    @property
    def resources(self) -> WorkerResources: ...

    def work(self, workers: Workers, on_bytes: OnBytes) -> Value_co:
        """Return the result; `on_bytes` gets the bytes of finished work."""


def process(task: Task[Value], workers: Workers | None = None, on_bytes: OnBytes = lambda _: None) -> Outcome[Value]:
    """Do a task's work and return its result or error; `workers` are made for it where not given.

    Raises:
        TransientError: the environment failed; another attempt may succeed.
    """
    try:
        with blamed(task.path):
            if workers is not None:
                return Outcome(value=task.work(workers, on_bytes))
            with task.resources.workers() as own:
                return Outcome(value=task.work(own, on_bytes))
    except errors.Interrupted:
        raise
    except QdqError as error:
        return Outcome(error=(type(error).__name__, str(error)))


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Raise what the work on a file meets as an error on it.

    Raises:
        TransientError: the environment failed; another attempt may succeed.
        QdqError: any other failure.
    """
    try:
        yield
    except QdqError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in TRANSIENT:
            raise TransientError(error) from error
        raise
    except MemoryError:
        raise OutputError(f"{show_path(path)}: out of memory; lower --max-memory or --threads") from None


@dataclass(frozen=True, kw_only=True)
class TaskOnShard:
    """Work on a shard by another process."""

    shard: ShardRef
    resources: WorkerResources

    @property
    def path(self) -> Path:
        return self.shard.path


@dataclass(frozen=True, kw_only=True)
class ShardTask(TaskOnShard):
    """Decisions on the tensors of a shard, and where the output goes. Less than a header: decisions are shared."""

    decisions: Sequence[Decision]
    """One decision per tensor."""
    ranges: Mapping[str, GivenRange]
    """Ranges from a file, by tensor."""
    per_slice: bool
    scale_bits: int
    target: Target | None
    """None: measure and write nothing."""

    def open(self, on_bytes: OnBytes) -> tuple[Plan, Measuring]:
        """Read the shard's header again; returns the plan, and how it is measured.

        Raises:
            InputError: it is not the file that was planned.
        """
        (plan,) = plans_of(self.shard, [self.decisions])
        return plan, Measuring(
            ranges=self.ranges, per_slice=self.per_slice, scale_bits=self.scale_bits, on_bytes=on_bytes
        )

    def work(self, workers: Workers, on_bytes: OnBytes) -> "Made":
        return self.begin(workers, on_bytes)()

    def begin(self, workers: Workers, on_bytes: OnBytes) -> Callable[[], "Made"]:
        """Measure the shard and build its output, if it has a target and was not written before.

        Returns:
            A function that gives the output its name, and returns what was made.
        """
        found = None if self.target is None else self.target.finished()
        if found is not None:
            on_bytes(self.shard.size)
            return lambda: Made(record=found["record"], size=found["size"])
        plan, measuring = self.open(on_bytes)
        target = self.target
        with ExitStack() as undo:
            with plan.shard.open() as reader:  # to leave it raises if the input changed, before the output is committed
                job = ShardJob(plan=plan, measuring=measuring, workers=workers, reader=reader)
                if target is None:
                    rows = job.run()
                    return lambda: Made(record=record_rows(rows))
                target.check_run()
                own = target.new_file()
                writer = plan.shard.create(own, reader)
                undo.callback(writer.abort)
                rows = replace(job, writer=writer).run()
            later = undo.pop_all()

        def publish() -> Made:
            with later:
                target.check_run()
                writer.commit()
            record = record_rows(rows)
            return Made(record=record, size=target.publish(own, record))

        return publish


@dataclass(frozen=True, kw_only=True)
class Made:
    """Work done on a shard."""

    record: Parsed
    """The rows, see `record_rows`."""
    size: int | None = None
    """Size of the output in bytes; None where none was written."""


def task_of(
    plan: Plan, measuring: Measuring, resources: WorkerResources, target: Target | None, shard: ShardRef
) -> ShardTask:
    """Return the task that does what the plan says.

    Raises:
        InputError: the shard cannot be read.
    """
    ranges = {
        tensor.name: found
        for tensor, spec in plan.tensors
        if isinstance(spec, QuantSpec) and (found := measuring.range_of(plan, tensor, spec)) is not None
    }
    return ShardTask(
        shard=shard,
        decisions=plan.decisions,
        ranges=ranges,
        per_slice=measuring.per_slice,
        scale_bits=measuring.scale_bits,
        resources=resources,
        target=target,
    )


def plans_of(shard: ShardRef, columns: Sequence[Sequence[Decision]]) -> list[Plan]:
    """Read the shard's header again and return its plans, one for each column of decisions.

    Raises:
        InputError: it is not the file that was planned.
    """
    found = shard.open()
    resolutions = {id(one): Resolution(decision=one, settings={}) for decisions in columns for one in decisions}
    return [
        Plan(
            checkpoint=found,
            shard=found.shards[0],
            file=file_of(found.shards[0]),
            resolutions=[resolutions[id(one)] for one in decisions],
        )
        for decisions in columns
    ]
