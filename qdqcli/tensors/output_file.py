"""Output files, which appear under their name only when complete."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from qdqcli.errors import UsageError
from qdqcli.escape import show_path
from qdqcli.tensors.input_file import CHUNK_BYTES, InputFile
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.path import link_target
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.rename import rename_new
from qdqcli.tensors.system_error import blame_output, output_error
from qdqcli.tensors.temporary import sweep_temporaries, temporary_of


class OutputFile:
    """A new file, written at any offset by several threads, that gets its name in `commit`.

    Leaving its `with` block removes a file that has no name yet.

    An object of a store is collected in an unnamed file of the system's temporary folder, and sent in `commit`. A
    local file is until then a temporary in the same folder, locked so that `sweep_temporaries` leaves it alone. Its
    name is a hash, since the final name may fill the 255 bytes that file systems allow. `unfinished` is the name of a
    temporary of an earlier process to continue. `mode` is that of the source file: the output gets the umask's mode
    minus the permissions that the source denies. An existing file is replaced only with `replaces`; its mode and, where
    the system allows it, its owner are kept.

    Raises:
        OutputError: the system refuses; names the final path.
    """

    def __init__(self, path: Path, unfinished: str | None = None, *, mode: int = 0o666, replaces: bool = False) -> None:
        self.path = path
        self._replaces = replaces
        self._temporary = path
        self._blamed = Path(tempfile.gettempdir()) if isinstance(path, RemotePath) else path
        """Path whose disk is to blame before `commit`."""
        with blame_output(self._blamed):
            if isinstance(path, RemotePath):
                with tempfile.TemporaryFile(dir=self._blamed) as file:
                    self._descriptor = os.dup(file.fileno())
            else:
                self._descriptor = self._open_locked(unfinished, 0o600 | mode & 0o066)

    def resize(self, size: int) -> None:
        """Set the file's final size in bytes; unwritten ranges read as zeros."""
        with blame_output(self._blamed):
            os.ftruncate(self._descriptor, size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` from `offset` on."""
        write_at(self._descriptor, data, offset, self._blamed)

    def write_all(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write pieces one after the other, from the begin of the file."""
        offset = 0
        for piece in pieces:
            self.write(memoryview(piece), offset)
            offset += len(piece)

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Yield the file as a stream from its begin, for writers such as `zipfile`."""
        with blame_output(self._blamed), os.fdopen(os.dup(self._descriptor), "wb") as file:
            yield file

    def sync(self) -> str | None:
        """Flush the data and the temporary's name to disk; return that name, None if no later process finds it."""
        if isinstance(self.path, RemotePath):
            return None
        with blame_output(self.path):
            os.fsync(self._descriptor)
        sync_folder(self.path.parent)
        return self._temporary.name

    def commit(self) -> None:
        """Flush to disk, rename to the final name, flush the folder.

        Raises:
            UsageError: the name was taken meanwhile, possibly in another spelling that the disk considers equal.
        """
        if isinstance(self.path, RemotePath):
            self._upload(self.path)
            return
        try:
            if self._replaces:
                _copy_attributes(self.path, self._descriptor)
            os.fsync(self._descriptor)
            if self._replaces:
                self._temporary.rename(self.path)
            else:
                rename_new(self._temporary, self.path)
        except FileExistsError as error:
            self.abort()
            raise UsageError(
                f"{show_path(self.path)}: exists: another process made it meanwhile, or the disk takes its name for "
                "that of another file (upper and lower case); choose another name or another disk"
            ) from error
        except OSError as error:
            self.abort()
            raise output_error(self.path, error) from error
        os.close(self._descriptor)
        self._descriptor = -1
        sync_folder(self.path.parent)

    def suspend(self) -> None:
        """Close the file and keep the temporary for a later process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def abort(self) -> None:
        """Remove the temporary; a no-op after `commit`."""
        if self._descriptor >= 0:
            if not isinstance(self.path, RemotePath):
                with suppress(OSError):  # report the first error; the next run sweeps
                    self._temporary.unlink()
            self.suspend()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _upload(self, path: RemotePath) -> None:
        try:
            with blame_output(path), os.fdopen(os.dup(self._descriptor), "rb") as file:
                file.seek(0)
                path.store.upload(path, file, os.fstat(self._descriptor).st_size)
        finally:
            self.suspend()

    def _open_locked(self, unfinished: str | None, mode: int) -> int:
        """Open and lock the temporary; retry if it was swept before it was locked."""
        while True:
            self._temporary = self.path.with_name(unfinished) if unfinished else temporary_of(self.path)
            # The kernel applies the umask; querying the umask would set it for every thread.
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_NOFOLLOW if unfinished else os.O_CREAT | os.O_EXCL)
            descriptor = os.open(self._temporary, flags, mode)
            with suppress(OSError):  # a file system without locks, where nothing is swept
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if unfinished or os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)


def write_at(descriptor: int, data: memoryview, offset: int, blamed: Path) -> None:
    """Write all of `data` from `offset` on."""
    done = 0
    while done < data.nbytes:
        try:
            done += os.pwrite(descriptor, data.cast("B")[done:], offset + done)
        except OSError as error:
            raise output_error(blamed, error) from error


def write_file(path: Path, pieces: Iterable[bytes], *, replaces: bool = True) -> None:
    """Write a whole file or none, through a link if `path` is one; an existing file keeps its mode.

    Removes stale temporaries. A file that cannot be replaced is written in place: a mount point, as in a container, or
    a writable file in a read-only folder.

    Raises:
        UsageError: there is a file and `replaces` is false.
        OutputError: the system refuses, or `link_target`.
    """
    if isinstance(path, RemotePath):
        _write_object(path, b"".join(pieces), replaces=replaces)
        return
    target = link_target(path)
    can_rename = not mount_points(target) and os.access(target.parent, os.W_OK | os.X_OK)
    if replaces and os.path.lexists(target) and not can_rename:
        _write_in_place(path, pieces)
        return
    sweep_temporaries(target)
    with OutputFile(target, replaces=replaces) as output:
        output.write_all(_blocks(pieces))
        output.commit()


def _write_object(path: RemotePath, data: bytes, *, replaces: bool) -> None:
    with blame_output(path):
        try:
            (path.store.put if replaces else path.store.create)(path, data)
        except FileExistsError as error:
            raise UsageError(f"{show_path(path)}: exists: another process made it; choose another name") from error


def _write_in_place(path: Path, pieces: Iterable[bytes]) -> None:
    with blame_output(path), path.open("r+b") as file:
        file.truncate()
        file.writelines(_blocks(pieces))
        file.flush()
        os.fsync(file.fileno())


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Regroup the bytes into blocks of about `CHUNK_BYTES`."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _copy_attributes(path: Path, descriptor: int) -> None:
    """Copy the mode of the file at `path`, if it exists, and where allowed its owner, to an open file."""
    with suppress(FileNotFoundError):
        status = path.stat()
        with suppress(PermissionError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def copy_file(file: InputFile, target: Path, on_chunk: Callable[[], None] = lambda: None) -> None:
    """Copy an open file, which is then closed, to a new file that is not more readable.

    `on_chunk` is called before each chunk and may raise to stop.
    """
    with file, OutputFile(target, mode=file.mode) as output:
        file.read_ahead([(0, file.size)], 64 * CHUNK_BYTES)
        output.write_all(file.chunks(0, file.size, on_chunk))
        file.close()
        output.commit()


def sync_folder(folder: Path) -> None:
    """Flush a folder's directory entries to disk."""
    if isinstance(folder, RemotePath):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # File systems that cannot flush folders, and folders that are writable but not readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise output_error(folder, error) from error
