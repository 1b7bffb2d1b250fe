"""SHA-256 of whole files, as `sha256sum` and the Hub show it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from qdqcli.errors import InputError, OutputError
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.run.distribute import Distribution
from qdqcli.run.shard import Outcome, outcome_of
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.storage import CHUNK_BYTES, InputFile

OnBytes = Callable[[int], None]
_AGAIN = "the disk or the memory may be faulty"


class FileDigest(NamedTuple):
    """Size and hash of a file."""

    size: int
    """Size in bytes."""
    sha256: str


class VerificationError(OutputError):
    """A written file differs from what the run should have written."""

    def __init__(self, path: Path, what: str, plan: int | None = None) -> None:
        super().__init__(f"{show_path(path)}: verification failed: {what}; {_AGAIN}")
        self.plan = plan
        """Index of the shard; None for other files."""


@contextmanager
def blamed_on_output(path: Path) -> Iterator[None]:
    """Turn an InputError on reading the output back into a VerificationError."""
    try:
        yield
    except InputError as error:
        raise VerificationError(path, f"it cannot be read back ({error})") from error


def digest_output(
    root: Path,
    names: Iterable[Path],
    workers: Workers,
    on_bytes: OnBytes = lambda _: None,
    distribution: Distribution | None = None,
) -> Mapping[Path, FileDigest]:
    """Return the digests of the files of an output at `root`, by name relative to it.

    They are read here, or where `distribution` says.

    Raises:
        VerificationError: a file cannot be read.
    """
    if distribution is not None:
        tasks = {name: DigestTask(path=(root / name).absolute()) for name in names}
        return _elsewhere(tasks, distribution, on_bytes, blamed_on_output)

    def digest(name: Path) -> FileDigest:
        path = root / name
        with blamed_on_output(path):
            return _digest(partial(InputFile, path), workers, on_bytes)

    return _each(digest, names, workers)


def digest_input(
    checkpoint: Checkpoint,
    workers: Workers,
    on_bytes: OnBytes = lambda _: None,
    distribution: Distribution | None = None,
) -> Mapping[Path, FileDigest]:
    """Return the digests of every shard and side file, by name relative to the checkpoint.

    Raises:
        InputError: a file cannot be read, or a shard is not the one whose header was read.
    """
    found: Mapping[Path, FileDigest] = {}
    files: dict[Path, Callable[[], InputFile]] = {side_file.name: side_file.open for side_file in checkpoint.side_files}
    if distribution is None:
        files |= {Path(s.name): partial(InputFile, s.path, expected=s.identity) for s in checkpoint.shards}
    else:
        tasks = {
            Path(shard.name): DigestTask(
                path=shard.path.absolute(), expected=(shard.identity.size, shard.identity.mtime_ns)
            )
            for shard in checkpoint.shards
        }
        found = _elsewhere(tasks, distribution, on_bytes)

    def digest(name: Path) -> FileDigest:
        return _digest(files[name], workers, on_bytes)

    return dict(sorted({**found, **_each(digest, files, workers)}.items()))


@dataclass(frozen=True, kw_only=True)
class DigestTask:
    """A file that another process hashes."""

    path: Path
    """Absolute path."""
    expected: tuple[int, int] | None = None
    """Size and modification time that it must have."""


def process_digest(task: DigestTask) -> Outcome[FileDigest]:
    """Return the digest of the file."""

    def open_file() -> InputFile:
        file = InputFile(task.path)
        if task.expected not in (None, (file.identity.size, file.identity.mtime_ns)):
            raise InputError(f"{show_path(task.path)}: changed after it was first looked at; start again")
        return file

    def work() -> FileDigest:
        with Workers(1) as workers:
            return _digest(open_file, workers, lambda _: None)

    return outcome_of(task.path, work)


def _elsewhere(
    tasks: Mapping[Path, DigestTask],
    distribution: Distribution,
    on_bytes: OnBytes,
    blamed: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Mapping[Path, FileDigest]:
    """Return the digests of the files, by name, read by other processes."""
    names = sorted(tasks)
    found: dict[Path, FileDigest] = {}

    def receive(index: int, outcome: Outcome[FileDigest]) -> None:
        with blamed(tasks[names[index]].path):
            digest = outcome.get()
        found[names[index]] = digest
        on_bytes(digest.size)

    distribution.run(process_digest, [(k, tasks[name]) for k, name in enumerate(names)], receive)
    return {name: found[name] for name in names}


def _each(digest: Callable[[Path], FileDigest], names: Iterable[Path], workers: Workers) -> Mapping[Path, FileDigest]:
    """Return the digests of all names; with a single worker, in the calling thread like every other read."""
    ordered = sorted(names)
    found = workers.map(digest, ordered) if workers.num_threads > 1 else map(digest, ordered)
    return dict(zip(ordered, found, strict=True))


def _digest(open_file: Callable[[], InputFile], workers: Workers, on_bytes: OnBytes) -> FileDigest:
    hasher = hashlib.sha256()
    with open_file() as file:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, file.size)))
        file.read_ahead([(0, file.size)], workers.spare_memory // workers.num_threads)
        for offset in range(0, file.size, CHUNK_BYTES):
            workers.interruption.check()
            part = buffer[: min(CHUNK_BYTES, file.size - offset)]
            file.read_into(part, offset)
            hasher.update(part)
            on_bytes(len(part))
        return FileDigest(file.size, hasher.hexdigest())
