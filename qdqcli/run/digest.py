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
from qdqcli.run.shard import OnBytes, Outcome, WorkerResources
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.input_file import FileIdentity, InputFile

_AGAIN = "the disk or the memory may be faulty"


class FileDigest(NamedTuple):
    """Size and hash of a file."""

    size: int
    """Size in bytes."""
    sha256: str


class VerificationError(OutputError):
    """A written file differs from what the run should have written."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{show_path(path)}: verification failed: {what}; {_AGAIN}")
        self.what = what
        """The difference."""
        self.plan: int | None = None
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
    base = root if distribution is None else root.absolute()
    tasks = {name: DigestTask(path=base / name, open=partial(InputFile, base / name)) for name in names}
    return _digests(tasks, workers, on_bytes, distribution, blamed_on_output)


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
    tasks = {side.name: DigestTask(path=side.path, open=side.open) for side in checkpoint.side_files}
    found: Mapping[Path, FileDigest] = {}
    if distribution is None:
        tasks |= {
            Path(shard.name): DigestTask(path=shard.path, open=partial(InputFile, shard.path, expected=shard.identity))
            for shard in checkpoint.shards
        }
    else:
        shards = {
            Path(shard.name): DigestTask(
                path=shard.path, open=partial(_open_elsewhere, shard.path.absolute(), shard.identity)
            )
            for shard in checkpoint.shards
        }
        found = _digests(shards, workers, on_bytes, distribution)
    return dict(sorted({**found, **_digests(tasks, workers, on_bytes)}.items()))


@dataclass(frozen=True, kw_only=True)
class DigestTask:
    """A file to hash."""

    path: Path
    open: Callable[[], InputFile]
    resources = WorkerResources(threads=1)

    def work(self, workers: Workers, on_bytes: OnBytes) -> FileDigest:
        """Return the digest of the file."""
        hasher = hashlib.sha256()
        with self.open() as file:
            file.read_ahead([(0, file.size)], workers.spare_memory // workers.num_threads)
            for part in file.chunks(0, file.size, workers.interruption.check):
                hasher.update(part)
                on_bytes(len(part))
            return FileDigest(file.size, hasher.hexdigest())


def _open_elsewhere(path: Path, expected: FileIdentity) -> InputFile:
    """Open an input in another process, where only size and modification time are those of the same file."""
    file = InputFile(path)
    if (file.identity.size, file.identity.mtime_ns) != (expected.size, expected.mtime_ns):
        raise InputError(f"{show_path(path)}: changed after it was first looked at; start again")
    return file


def _digests(
    tasks: Mapping[Path, DigestTask],
    workers: Workers,
    on_bytes: OnBytes,
    distribution: Distribution | None = None,
    blamed: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Mapping[Path, FileDigest]:
    """Return the digests of the files, by name; with a single worker, read in the calling thread like all else."""

    def digest(name: Path) -> FileDigest:
        with blamed(tasks[name].path):
            return tasks[name].work(workers, on_bytes)

    names = sorted(tasks)
    if distribution is None:
        found = workers.map(digest, names) if workers.num_threads > 1 else map(digest, names)
        return dict(zip(names, found, strict=True))
    digests: dict[int, FileDigest] = {}

    def receive(index: int, outcome: Outcome[FileDigest]) -> None:
        with blamed(tasks[names[index]].path):
            digests[index] = outcome.get()
        on_bytes(digests[index].size)

    distribution.run([(index, tasks[name]) for index, name in enumerate(names)], receive)
    return {name: digests[index] for index, name in enumerate(names)}
