"""Verification of a written output: each file is read back, from the disk where possible, and compared.

Quantized tensors are recomputed by the in-memory kernels, not by those that write files themselves; everything else
is compared with the input. The statistics must be identical to the last bit. Safetensors files are also opened with
the library of that name, which is independent of our own reader.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from qdqcli.escape import escape_name, show_path
from qdqcli.interrupt import Interruption
from qdqcli.measure.workers import Workers
from qdqcli.output.file_tree import files_below, first_difference
from qdqcli.output.marker import MARKER
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.result.verification import Verification
from qdqcli.run.digest import FileDigest, VerificationError, blamed_on_output
from qdqcli.run.distribute import Distribution
from qdqcli.run.pipeline import Measuring, ShardJob
from qdqcli.run.record import record_rows
from qdqcli.run.shard import OnBytes, ShardTask, WorkerResources, task_of
from qdqcli.tensors.checkpoint import Shard, ShardReader, open_file
from qdqcli.tensors.input_file import CHUNK_BYTES, InputFile
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.tensor import TensorInfo


def verify_output(
    plans: Sequence[Plan],
    rows: Sequence[Row],
    measuring: Measuring,
    workers: Workers,
    output: OutputTree,
    *,
    void_dtype: str | None = None,
    distribution: Distribution | None = None,
) -> int:
    """Compare all that `write_plans` wrote with `rows`, its result; returns the number of files safetensors read.

    Shards are read here, or where `distribution` says.

    Raises:
        VerificationError: the first file that differs.
        InputError: an input cannot be read any more.
    """
    _check_names(output)
    written: list[Written] = []
    first = 0
    for plan in plans:
        stop = first + len(plan.decisions)
        path = output.shard_path(plan.checkpoint, plan.shard)
        written.append(Written(path=path, rows=_digest_of(rows[first:stop]), void_dtype=void_dtype))
        first = stop
    if distribution is not None:
        _verify_elsewhere(plans, written, measuring, distribution)
    else:
        for i, (plan, own) in enumerate(zip(plans, written, strict=True)):
            try:
                own.verify(plan, measuring, workers)
            except VerificationError as error:
                error.plan = i
                raise
    for _, side_file, name in output.side_files:
        target = output.result / name
        _forget_cached(target)
        with blamed_on_output(target):
            offset = first_difference(side_file.path, target, workers.interruption.check)
        if offset is not None:
            raise VerificationError(target, f"byte {offset} is not that of {show_path(side_file.path)}")
    return sum(_is_safetensors(plan.shard) for plan in plans)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A shard's output, and what is known of it."""

    path: Path
    rows: str
    """Hash of the rows that were measured at first."""
    void_dtype: str | None

    def verify(self, plan: Plan, measuring: Measuring, workers: Workers) -> None:
        """Compare the output with what the plan gives, and its rows.

        Raises:
            VerificationError: it differs.
            InputError: the input cannot be read any more.
        """
        _forget_cached(self.path)
        if _digest_of(_verify_shard(plan, self.path, measuring, workers, self.void_dtype)) != self.rows:
            raise VerificationError(self.path, "its statistics are not those that were measured at first")
        if _is_safetensors(plan.shard):
            with blamed_on_output(self.path):
                _check_with_library(self.path, plan.shard, workers.interruption)


@dataclass(frozen=True, kw_only=True)
class VerifyTask:
    """An output that another process compares; its result is the difference, None if there is none."""

    task: ShardTask
    """The task that made it."""
    written: Written

    @property
    def path(self) -> Path:
        return self.written.path

    @property
    def resources(self) -> WorkerResources:
        return self.task.resources

    def work(self, workers: Workers, on_bytes: OnBytes) -> "Difference":
        try:
            self.written.verify(*self.task.open(on_bytes), workers)
        except VerificationError as error:
            return Difference(what=error.what)
        return Difference()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of an output from what was expected; None: there is none."""

    what: str | None = None


def _verify_elsewhere(
    plans: Sequence[Plan], written: Sequence[Written], measuring: Measuring, distribution: Distribution
) -> None:
    tasks = [
        VerifyTask(
            task=task_of(plan, measuring, distribution.resources, None, ref),
            written=replace(own, path=own.path.absolute()),
        )
        for plan, ref, own in zip(plans, distribution.refs(plans), written, strict=True)
    ]

    def check(index: int, found: Difference) -> None:
        if found.what is not None:
            error = VerificationError(written[index].path, found.what)
            error.plan = index
            raise error
        measuring.on_bytes(plans[index].nbytes)

    distribution.collect(tasks, check)


def _digest_of(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(record_rows(rows), sort_keys=True).encode()).hexdigest()


def _is_safetensors(shard: Shard) -> bool:
    return shard.path.suffix.lower() == ".safetensors"


def verification_of(output: OutputTree, digests: Mapping[Path, FileDigest], num_opened: int) -> Verification:
    """Return the report's entry on a verified output; `num_opened` is the result of `verify_output`."""
    return Verification(
        num_opened_by_safetensors=num_opened,
        num_bytes=sum(digest.size for digest in digests.values()),
        digests={
            escape_name(output.output.name if name == Path() else name.as_posix()): digest.sha256
            for name, digest in digests.items()
        },
    )


def _check_names(output: OutputTree) -> None:
    """Raise where a file is missing or unexpected."""
    expected, found = set(output.names), set(files_below(output.result)) - {Path(MARKER)}
    for name in sorted(expected ^ found):
        raise VerificationError(output.result / name, "is missing" if name in expected else "is not part of the output")


def _verify_shard(plan: Plan, path: Path, measuring: Measuring, workers: Workers, void_dtype: str | None) -> list[Row]:
    with ExitStack() as opened:
        with blamed_on_output(path):
            written = open_file(path, plan.shard.name, void_dtype, suffix=Path(plan.shard.output_name).suffix)
            tensors, digest = list(plan.shard.tensors), plan.shard.header_digest()
            if list(written.tensors) != tensors or written.header_digest() != digest:
                raise VerificationError(path, "its header is not that of the input")
            readable = opened.enter_context(written.open())
        source = opened.enter_context(plan.shard.open())
        readable.read_ahead(written.tensors, _AHEAD_BYTES)
        comparison = _Comparison(path, readable)
        job = ShardJob(plan=plan, measuring=measuring, workers=workers, reader=source, writer=comparison)
        return job.run()


_AHEAD_BYTES = 32 << 20
"""Memory for a written file that is read back from a store."""


class _Comparison:
    """`ShardWriter` that compares its input with the written file instead of writing."""

    def __init__(self, path: Path, written: ShardReader) -> None:
        self._path, self._written = path, written

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        expected = data.cast("B") if data.nbytes else memoryview(b"")
        for offset in range(0, len(expected), CHUNK_BYTES):
            self._compare(tensor, start + offset, expected[offset : offset + CHUNK_BYTES])

    def write_batch(self, first: TensorInfo, data: memoryview) -> bool:  # noqa: ARG002 - a message names the tensor
        return False

    def _compare(self, tensor: TensorInfo, start: int, expected: memoryview) -> None:
        found = bytearray(len(expected))
        with blamed_on_output(self._path):
            self._written.read_into(tensor, start, memoryview(found))
        if found != expected:
            offset = start + next(i for i, byte in enumerate(expected) if byte != found[i])
            name = escape_name(tensor.name)
            raise VerificationError(self._path, f"tensor '{name}' is not what it must be at its byte {offset}")

    def sync(self) -> None:
        return None

    def commit(self) -> None: ...

    def suspend(self) -> None: ...

    def abort(self) -> None: ...


def _check_with_library(path: Path, shard: Shard, interruption: Interruption) -> None:
    """Open the file at `path` with the library and compare its header with that of `shard`, which it replaces.

    Of a remote file it gets a copy of the header, with zeros for the data.

    Names, dtypes and shapes are compared; the library checks offsets and size by itself. No data is read: NumPy lacks
    some of the dtypes.

    Raises:
        VerificationError: the library refuses the file, or finds another tensor in it.
    """
    try:
        with _local(path, shard) as own, safe_open(own, framework="np") as file:
            names = set(file.keys())
            for tensor in shard.tensors:
                interruption.check()
                if tensor.name not in names:
                    raise VerificationError(path, f"tensor '{escape_name(tensor.name)}' is missing for safetensors")
                found = file.get_slice(tensor.name)
                if (found.get_dtype(), tuple(found.get_shape())) != (tensor.dtype.name, tensor.shape):
                    raise VerificationError(path, f"tensor '{escape_name(tensor.name)}' is another for safetensors")
            if len(names) > len(shard.tensors):
                raise VerificationError(path, f"safetensors finds {len(names)} tensors, not {len(shard.tensors)}")
    except (SafetensorError, OSError) as error:
        raise VerificationError(path, f"the safetensors library refuses it ({escape_name(str(error))})") from error


@contextmanager
def _local(path: Path, shard: Shard) -> Iterator[Path]:
    """Yield a file of this machine with the header, which the library reads, and the size of the file at `path`."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with InputFile(path) as source, tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:
        copy.write(source.read(0, min(tensor.start for tensor in shard.tensors) if shard.tensors else source.size))
        copy.truncate(source.size)
        copy.flush()
        yield Path(copy.name)


def _forget_cached(path: Path) -> None:
    """Drop the page cache of a flushed file so that the next read comes from disk, where the system supports it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
