"""SHA-256 of whole files, as `sha256sum` and the Hub show it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from qdqcli.errors import InputError, OutputError
from qdqcli.escape import show_path
from qdqcli.measure.workers import Workers
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.storage import CHUNK_BYTES, InputFile

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
    root: Path, names: Iterable[Path], workers: Workers, on_bytes: Callable[[int], None] = lambda _: None
) -> Mapping[Path, FileDigest]:
    """Return the digests of the files of an output at `root`, by name relative to it.

    Raises:
        VerificationError: a file cannot be read.
    """

    def digest(name: Path) -> FileDigest:
        path = root / name
        with blamed_on_output(path):
            return _digest(partial(InputFile, path), workers, on_bytes)

    return _each(digest, names, workers)


def digest_input(
    checkpoint: Checkpoint, workers: Workers, on_bytes: Callable[[int], None] = lambda _: None
) -> Mapping[Path, FileDigest]:
    """Return the digests of every shard and side file, by name relative to the checkpoint.

    Raises:
        InputError: a file cannot be read, or a shard is not the one whose header was read.
    """
    files: dict[Path, Callable[[], InputFile]] = {
        Path(shard.name): partial(InputFile, shard.path, expected=shard.identity) for shard in checkpoint.shards
    }
    files |= {side_file.name: side_file.open for side_file in checkpoint.side_files}

    def digest(name: Path) -> FileDigest:
        return _digest(files[name], workers, on_bytes)

    return _each(digest, files, workers)


def _each(digest: Callable[[Path], FileDigest], names: Iterable[Path], workers: Workers) -> Mapping[Path, FileDigest]:
    """Return the digests of all names; with a single worker, in the calling thread like every other read."""
    ordered = sorted(names)
    found = workers.map(digest, ordered) if workers.num_threads > 1 else map(digest, ordered)
    return dict(zip(ordered, found, strict=True))


def _digest(open_file: Callable[[], InputFile], workers: Workers, on_bytes: Callable[[int], None]) -> FileDigest:
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
