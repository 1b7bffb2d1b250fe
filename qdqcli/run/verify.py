"""The check of a written output: each file is read back, from the disk where possible, and compared.

Quantized tensors are computed once more, by the kernels that work in memory and not by those that write files for
themselves; all else is compared with the input. The statistics must come out as before, to the last bit.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qdqcli.errors import InputError, OutputError
from qdqcli.escape import escape_name, show_path
from qdqcli.measure.workers import Workers
from qdqcli.output.file_tree import files_below, first_difference
from qdqcli.output.tree import OutputTree
from qdqcli.recipe.plan import Plan
from qdqcli.result.result import Row
from qdqcli.result.verification import Verification
from qdqcli.run.pipeline import Measuring, measure_shard
from qdqcli.run.record import record_rows
from qdqcli.tensors.checkpoint import ShardReader, open_as
from qdqcli.tensors.storage import CHUNK_BYTES, InputFile, forget_cached
from qdqcli.tensors.tensor import TensorInfo

_AGAIN = "the disk or the memory may be faulty"


class VerificationError(OutputError):
    """A written file is not what it must be."""

    def __init__(self, path: Path, what: str, plan: int | None = None) -> None:
        super().__init__(f"{show_path(path)}: verification failed: {what}; {_AGAIN}")
        self.plan = plan
        """Number of the shard, if it is one."""


def verify_output(
    plans: Sequence[Plan],
    rows: Sequence[Row],
    measuring: Measuring,
    workers: Workers,
    output: OutputTree,
    *,
    void_dtype: str | None = None,
) -> Verification:
    """Compare all that `run_plans` wrote, the rows being its result.

    Raises:
        VerificationError: the first file that is not what it must be.
        InputError: an input cannot be read any more.
    """
    _check_names(output)
    first = 0
    for i, plan in enumerate(plans):
        path = output.shard_path(plan.checkpoint, plan.shard)
        forget_cached(path)
        stop = first + len(plan.decisions)
        try:
            again = _verify_shard(plan, path, measuring, workers, void_dtype)
            if record_rows(again) != record_rows(rows[first:stop]):
                raise VerificationError(path, "its statistics are not those that were measured at first")
        except VerificationError as error:
            error.plan = i
            raise
        first = stop
    for side_file, target in output.side_files():
        forget_cached(target)
        with _blamed_on(target):
            place = first_difference(side_file.path, target, workers.interruption.check)
        if place is not None:
            raise VerificationError(target, f"byte {place} is not that of {show_path(side_file.path)}")
    return _digests(output, workers)


def _check_names(output: OutputTree) -> None:
    """Nothing is missing and nothing else is there."""
    expected, found = set(output.names()), set(files_below(output.result))
    for name in sorted(expected ^ found):
        raise VerificationError(output.result / name, "is missing" if name in expected else "is not part of the output")


def _verify_shard(plan: Plan, path: Path, measuring: Measuring, workers: Workers, void_dtype: str | None) -> list[Row]:
    with _blamed_on(path):
        written = open_as(plan.shard.path.suffix, path, plan.shard.name, void_dtype)
        if list(written.tensors) != list(plan.shard.tensors) or written.header_digest() != plan.shard.header_digest():
            raise VerificationError(path, "its header is not that of the input")
    with plan.shard.open() as source, written.open() as readable:
        comparison = _Comparison(path, source, readable)
        rows = measure_shard(plan, measuring, workers, source, comparison)
        source.close()
    return rows


class _Comparison:
    """A `ShardWriter` that writes nothing: it compares what it gets with the file that was written."""

    def __init__(self, path: Path, source: ShardReader, written: ShardReader) -> None:
        self._path, self._source, self._written = path, source, written

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        expected = data.cast("B") if data.nbytes else memoryview(b"")
        for offset in range(0, len(expected), CHUNK_BYTES):
            self._compare(tensor, start + offset, expected[offset : offset + CHUNK_BYTES])

    def copy(self, tensor: TensorInfo, on_chunk: Callable[[], None] = lambda: None) -> None:
        for start in range(0, tensor.nbytes, CHUNK_BYTES):
            on_chunk()
            part = memoryview(bytearray(min(CHUNK_BYTES, tensor.nbytes - start)))
            self._source.read_into(tensor, start, part)
            self._compare(tensor, start, part)

    def _compare(self, tensor: TensorInfo, start: int, expected: memoryview) -> None:
        found = bytearray(len(expected))
        with _blamed_on(self._path):
            self._written.read_into(tensor, start, memoryview(found))
        if found != expected:
            place = start + next(i for i, byte in enumerate(expected) if byte != found[i])
            name = escape_name(tensor.name)
            raise VerificationError(self._path, f"tensor '{name}' is not what it must be at its byte {place}")

    def place(self, tensor: TensorInfo) -> None:  # noqa: ARG002 - kernels must not write for themselves here
        return None

    def sync(self) -> None:
        return None

    def commit(self) -> None: ...

    def suspend(self) -> None: ...

    def abort(self) -> None: ...


def _digests(output: OutputTree, workers: Workers) -> Verification:
    """Of every file, by threads."""
    names = sorted(output.names())

    def digest(name: Path) -> tuple[int, str]:
        hasher = hashlib.sha256()
        path = output.result / name
        with _blamed_on(path), InputFile(path) as file:
            buffer = memoryview(bytearray(min(CHUNK_BYTES, file.size)))
            for offset in range(0, file.size, CHUNK_BYTES):
                workers.interruption.check()
                part = buffer[: min(CHUNK_BYTES, file.size - offset)]
                file.read_into(part, offset)
                hasher.update(part)
            return file.size, hasher.hexdigest()

    found = workers.map(digest, names)
    shown = [escape_name(output.output.name if name == Path() else name.as_posix()) for name in names]
    return Verification(
        num_bytes=sum(size for size, _ in found),
        digests={name: digest for name, (_, digest) in zip(shown, found, strict=True)},
    )


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """What cannot be read of the output is an output that is not right, not an input."""
    try:
        yield
    except InputError as error:
        raise VerificationError(path, f"it cannot be read back ({error})") from error
