"""Input files: positional reads that detect changes.

Nothing is memory-mapped: truncating a mapped file ends the process with SIGBUS, where `preadv` gives an ordinary error.
A `RemotePath` leads to an object in a store, which `remote_file.py` reads.
"""

import hashlib
import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qdqcli.errors import InputError
from qdqcli.escape import show_path, show_size
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_input, input_error

if TYPE_CHECKING:
    from qdqcli.tensors.remote_file import RemoteFile

CHUNK_BYTES = 1 << 20
"""Size of the copy buffer: 1 MiB; a larger one is no faster for copies within the page cache."""

MAX_TEXT_BYTES = 64 << 20
"""Maximum size of a recipe or a budget; limits for each of 100,000 tensors take 15 MB."""

Span = tuple[int, int]
"""The offset of the first byte, and of the byte behind the last."""


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """File identity, to detect that a file was changed or replaced."""

    inode: int
    size: int
    """Size in bytes."""
    mtime_ns: int
    device: int = 0
    """0 where another process will compare: the same disk may have another number after a restart."""

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(inode=status.st_ino, size=status.st_size, mtime_ns=status.st_mtime_ns, device=status.st_dev)


class InputFile:
    """A regular file, opened for positional reads from several threads at once.

    Raises:
        InputError: it cannot be opened, is not a regular file, or no longer matches `expected`.
    """

    _remote: "RemoteFile | None"

    def __init__(self, path: Path, *, expected: FileIdentity | None = None) -> None:
        self.path = path
        self._descriptor = -1
        self._remote = None
        try:
            if isinstance(path, RemotePath):
                from qdqcli.tensors.remote_file import RemoteFile  # lazy: local files do not need it

                self._remote = RemoteFile(path, is_expected=expected is not None)
                status = self._remote.status
            else:
                # O_NONBLOCK: opening a named pipe must not wait for a writer.
                self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                status = os.fstat(self._descriptor)
        except OSError as error:
            self.release()
            raise input_error(path, error) from error
        self.identity = FileIdentity.of(status)
        self.size = self.identity.size
        self.mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            self.release()
            kind = "is a folder, not a regular file" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
            raise InputError(f"{show_path(path)}: {kind}; give a file")
        if expected is not None and expected != self.identity:
            self.release()
            raise InputError(f"{show_path(path)}: changed after it was first looked at; start again")

    def check_size(self, max_bytes: int) -> None:
        """Raise `InputError` if the file is larger than `max_bytes`."""
        if self.size > max_bytes:
            raise InputError(f"{show_path(self.path)}: has {show_size(self.size)}; at most {max_bytes} are read")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the whole buffer with the bytes from `offset` on."""
        done = 0
        while done < buffer.nbytes:
            rest = buffer.cast("B")[done:]
            try:
                if self._remote is None:
                    count = os.preadv(self._descriptor, [rest], offset + done)
                else:
                    count = self._remote.read(rest, offset + done)
            except OSError as error:
                raise input_error(self.path, error) from error
            if count == 0:
                raise InputError(
                    f"{show_path(self.path)}: truncated: ends at byte {offset + done}, {offset + buffer.nbytes} "
                    "expected; it may have changed while being read"
                )
            done += count

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the file; for headers, not for data."""
        data = bytearray(max(0, min(length, self.size - offset)))
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def chunks(self, offset: int, length: int, on_chunk: Callable[[], None] = lambda: None) -> Iterator[memoryview]:
        """Yield `length` bytes from `offset` on, at most `CHUNK_BYTES` at a time, in one buffer.

        `on_chunk` is called before each and may raise to stop.
        """
        buffer = memoryview(bytearray(min(CHUNK_BYTES, length)))
        for start in range(0, length, CHUNK_BYTES):
            on_chunk()
            part = buffer[: length - start]
            self.read_into(part, offset + start)
            yield part

    def read_ahead(self, spans: Iterable[Span], max_bytes: int) -> None:
        """Say which bytes will be read, in about this order; a store sends them before they are needed."""
        if self._remote is not None:
            self._remote.read_ahead(spans, max_bytes)

    def close(self) -> None:
        """Close the file; a no-op once closed.

        Raises:
            InputError: size or modification time are not those at opening, or the path leads to another file now.
        """
        if self._descriptor < 0:  # closed, or an object of a store, which compares at each read
            self.release()
            return
        try:
            try:
                opened = FileIdentity.of(os.fstat(self._descriptor))
            except OSError as error:  # its server may have lost it
                raise input_error(self.path, error) from error
            if opened != self.identity:
                raise InputError(f"{show_path(self.path)}: changed while being read; start again")
            try:
                named = FileIdentity.of(self.path.stat())
            except OSError as error:
                raise InputError(f"{show_path(self.path)}: was removed while being read; start again") from error
            if named != self.identity:
                raise InputError(f"{show_path(self.path)}: was replaced while being read; start again")
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def release(self) -> None:
        """Close the file without a check, because of an error that is more informative than "changed"."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.release()


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read the whole content of a small file: a recipe, a budget.

    Raises:
        InputError: it cannot be read, is not a regular file (a pipe could block), or has more than `max_bytes`.
    """
    with InputFile(path) as file:
        file.check_size(max_bytes)
        return file.read(0, file.size)


def read_pipe(path: Path, max_bytes: int, patience_s: float = 5.0) -> bytes:
    """Read a pipe to its end.

    Raises:
        InputError: it cannot be read, has more than `max_bytes`, or nothing comes for `patience_s`.
    """
    data = bytearray()
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with blame_input(path), os.fdopen(os.open(path, flags), "rb", buffering=0) as pipe:
        while len(data) <= max_bytes:
            if not select.select([pipe], [], [], patience_s)[0]:
                raise InputError(f"{show_path(path)}: nothing came through this pipe for {patience_s} s; give a file")
            piece = os.read(pipe.fileno(), CHUNK_BYTES)
            if not piece:
                return bytes(data)
            data += piece
    raise InputError(f"{show_path(path)}: more than {max_bytes} bytes came through this pipe; at most these are read")


def digest_of(path: Path) -> str:
    """Return the first half of a file's SHA-256, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    with InputFile(path) as file:
        for part in file.chunks(0, file.size):
            digest.update(part)
    return digest.hexdigest()[:32]
