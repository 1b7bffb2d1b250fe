"""Files: positional reads that detect changes, and writes that appear under their name only when complete.

The only file of the package that opens data (`lock.py` opens a lock, `line_log.py` a journal). Nothing is
memory-mapped: truncating a mapped file ends the process with SIGBUS, where `preadv` gives an ordinary error. A
`RemotePath` leads to an object in a store, which `remote_file.py` reads.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import select
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import IO, Protocol, Self

from qdqcli.errors import InputError, OutputError, UsageError
from qdqcli.escape import show_path, show_size
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.rename import rename_new

CHUNK_BYTES = 1 << 20
"""Size of the copy buffer: 1 MiB; a larger one is no faster for copies within the page cache."""

MAX_TEXT_BYTES = 64 << 20
"""Maximum size of a recipe or a budget; limits for each of 100,000 tensors take 15 MB."""

Span = tuple[int, int]
"""The offset of the first byte, and of the byte behind the last."""

TEMPORARY_PATTERN = ".qdq-*.tmp"
"""Glob of the temporaries of `OutputFile`; in a folder locked by this process they are stale."""
MAX_LINKS = 40
"""Links in a row that Linux follows."""
_SHARED = stat.S_ISVTX | stat.S_IWOTH
"""Mode bits of a folder where all may write, and none remove what is another's."""
STALE_S = 24 * 3600.0
"""Age in seconds after which a temporary of another machine, whose locks may be invisible here, counts as stale."""

_INPUT_HINTS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "check its permissions",
    errno.ELOOP: "the link leads back to itself",
    errno.EIO: "the disk or the network failed",
    errno.ETIMEDOUT: "check the address and the network",
    errno.ESTALE: "the server no longer has the file; start again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
_OUTPUT_HINTS = {
    errno.ENOSPC: "free some space or choose an OUTPUT on another disk",
    errno.EDQUOT: "free some of the quota or choose an OUTPUT on another disk",
    errno.EFBIG: "raise the limit on file size (ulimit -f)",
    errno.EACCES: "choose an OUTPUT in a folder that you may write to",
    errno.EPERM: "choose an OUTPUT in a folder that you may write to",
    errno.EROFS: "choose an OUTPUT on a disk that can be written",
    errno.EIO: "the disk or the network failed",
    errno.ETIMEDOUT: "check the address and the network",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def input_error(path: Path, error: OSError) -> InputError:
    """Return the error for an input that the system refuses: path, the system's reason, what to do."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return InputError(f"{show_path(path)}: is a link to something that is not there; check where it leads")
    return InputError(_explain(path, error, _INPUT_HINTS))


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error for an output that the system refuses: path, the system's reason, what to do."""
    return OutputError(_explain(path, error, _OUTPUT_HINTS))


@contextmanager
def blame_input(path: Path) -> Iterator[None]:
    """Turn an error of the system or of a store into an `InputError` on the path."""
    try:
        yield
    except OSError as error:
        raise input_error(path, error) from error


@contextmanager
def blame_output(path: Path) -> Iterator[None]:
    """Turn an error of the system or of a store into an `OutputError` on the path."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _explain(path: Path, error: OSError, hints: dict[int, str]) -> str:
    hint = hints.get(error.errno or 0)
    return f"{show_path(path)}: {error.strerror or error}" + (f"; {hint}" if hint else "")


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """File identity, to detect that a file was changed or replaced."""

    inode: int
    size: int
    """Size in bytes."""
    mtime_ns: int
    device: int = field(default=0, compare=False)
    """Not compared: the same disk may have another number after a restart."""

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(inode=status.st_ino, size=status.st_size, mtime_ns=status.st_mtime_ns, device=status.st_dev)

    def is_same_file(self, other: Self) -> bool:
        """Tell whether both describe the same unchanged file; valid only within one process."""
        return self == other and self.device == other.device


class _Opened(Protocol):
    """An opened file. Reads may come from several threads at once; failures are `OSError`."""

    def status(self) -> os.stat_result:
        """Return the status of the opened file."""

    def status_by_name(self) -> os.stat_result:
        """Return the status of the file that has its name now."""

    def read(self, view: memoryview, offset: int) -> int:
        """Fill the view, or its begin, with bytes from `offset` on; return their number, 0 at the end of the file."""

    def read_ahead(self, spans: Iterable[Span], max_bytes: int) -> None: ...

    def close(self) -> None: ...


class _LocalFile:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.status = partial(os.fstat, self._descriptor)
        self.status_by_name = path.stat
        self.close = partial(os.close, self._descriptor)

    def read(self, view: memoryview, offset: int) -> int:
        return os.preadv(self._descriptor, [view], offset)

    def read_ahead(self, spans: Iterable[Span], max_bytes: int) -> None:
        """Do nothing: the system reads ahead."""


class InputFile:
    """A regular file, opened for positional reads from several threads at once.

    Raises:
        InputError: it cannot be opened, is not a regular file, or no longer matches `expected`.
    """

    def __init__(self, path: Path, *, expected: FileIdentity | None = None) -> None:
        self.path = path
        with ExitStack() as undo:
            with blame_input(path):
                if isinstance(path, RemotePath):
                    from qdqcli.tensors.remote_file import RemoteFile  # lazy: local files do not need it

                    self._file: _Opened | None = RemoteFile(path, is_expected=expected is not None)
                else:
                    self._file = _LocalFile(path)
                undo.callback(self._release)
                status = self._file.status()
            self.identity = FileIdentity.of(status)
            self.size = self.identity.size
            self.mode = stat.S_IMODE(status.st_mode)
            if not stat.S_ISREG(status.st_mode):
                kind = "is a folder, not a regular file" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
                raise InputError(f"{show_path(path)}: {kind}; give a file")
            if expected is not None and not self.identity.is_same_file(expected):
                raise InputError(f"{show_path(path)}: changed after it was first looked at; start again")
            undo.pop_all()

    def check_size(self, max_bytes: int) -> None:
        """Raise `InputError` if the file is larger than `max_bytes`."""
        if self.size > max_bytes:
            raise InputError(f"{show_path(self.path)}: has {show_size(self.size)}; at most {max_bytes} are read")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the whole buffer with the bytes from `offset` on."""
        view = as_bytes(buffer)
        done = 0
        file = self._file
        assert file is not None, "read after close"
        while done < len(view):
            try:
                count = file.read(view[done:], offset + done)
            except OSError as error:
                raise input_error(self.path, error) from error
            if count == 0:
                raise InputError(
                    f"{show_path(self.path)}: truncated: ends at byte {offset + done}, {offset + len(view)} expected; "
                    "it may have changed while being read"
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
        if self._file is not None:
            self._file.read_ahead(spans, max_bytes)

    def close(self) -> None:
        """Close the file; a no-op once closed.

        Raises:
            InputError: size or modification time are not those at opening, or the path leads to another file now.
        """
        if self._file is None:
            return
        try:
            with blame_input(self.path):  # its server may have lost it
                status = self._file.status()
            if FileIdentity.of(status) != self.identity:
                raise InputError(f"{show_path(self.path)}: changed while being read; start again")
            try:
                named = FileIdentity.of(self._file.status_by_name())
            except OSError as error:
                raise InputError(f"{show_path(self.path)}: was removed while being read; start again") from error
            if named != self.identity:
                raise InputError(f"{show_path(self.path)}: was replaced while being read; start again")
        finally:
            self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # the original error is more informative than "changed"
            self._release()


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
                self._descriptor = self._open_locked(unfinished, 0o666 & private_mode(mode))

    def resize(self, size: int) -> None:
        """Set the file's final size in bytes; unwritten ranges read as zeros."""
        with blame_output(self._blamed):
            os.ftruncate(self._descriptor, size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` from `offset` on."""
        _write(self._descriptor, data, offset, self._blamed)

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


def _write(descriptor: int, data: memoryview, offset: int, blamed: Path) -> None:
    """Write all of `data` from `offset` on."""
    view = as_bytes(data)
    done = 0
    while done < len(view):
        try:
            done += os.pwrite(descriptor, view[done:], offset + done)
        except OSError as error:
            raise output_error(blamed, error) from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read the whole content of a small file: a recipe, a budget.

    Raises:
        InputError: it cannot be read, is not a regular file (a pipe could block), or has more than `max_bytes`.
    """
    with InputFile(path) as file:
        file.check_size(max_bytes)
        return file.read(0, file.size)


def real_path(path: Path) -> Path:
    """Resolve the path's links; a dangling or circular link is resolved as far as possible."""
    return path if isinstance(path, RemotePath) else Path(os.path.realpath(path))


def lexists(path: Path) -> bool:
    """Tell whether there is a file, a folder or a link of this name."""
    if not isinstance(path, RemotePath):
        return os.path.lexists(path)
    from qdqcli.tensors.remote import known  # lazy: local files do not need it

    return known(path) is not None or is_file(path)


def is_file(path: Path) -> bool:
    """Tell whether there is a file of this name.

    Raises:
        InputError: a store does not tell.
    """
    with blame_input(path):
        return path.is_file()


def is_pipe(path: Path) -> bool:
    """Tell whether the path leads to a pipe, such as the shell's `<(command)`."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


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


def link_target(path: Path) -> Path:
    """Return where a file that is written at `path` goes, through links.

    They are read here and not by the system, which would refuse the same with `fs.protected_symlinks`.

    Raises:
        OutputError: one is another user's, in a folder where all may write (`/tmp`): it could lead into a home.
    """
    link = path
    for _ in range(MAX_LINKS):
        if not link.is_symlink():
            break
        with blame_output(link):  # it may be changed at the same time
            folder, owner, leads_to = link.parent.stat(), link.lstat().st_uid, link.readlink()
        if folder.st_mode & _SHARED == _SHARED and owner not in (os.geteuid(), folder.st_uid):
            raise OutputError(
                f"{show_path(link)}: is a link that another user ({owner}) made in a folder where all may write; "
                "remove it, or choose another name"
            )
        link = link.parent / leads_to
    return Path(os.path.realpath(path))


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


def temporary_of(path: Path) -> Path:
    """Return a new name for a temporary of `path`, in its folder."""
    return path.with_name(f".qdq-{_hashed_name(path)}-{_machine()}{secrets.token_hex(4)}.tmp")


def sweep_temporaries(path: Path) -> None:
    """Remove stale temporaries of `path`.

    A process locks its temporaries. Locks of another machine may be invisible here: its temporaries stay for STALE_S.
    """
    for temporary in path.parent.glob(f".qdq-{_hashed_name(path)}-*.tmp"):
        with suppress(OSError):  # locked, not ours, or gone: harmless
            descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_local = temporary.stem.rpartition("-")[2][:-8] == _machine()
                if is_local or time.time() - os.fstat(descriptor).st_mtime > STALE_S:
                    temporary.unlink()
            finally:
                os.close(descriptor)


def _hashed_name(path: Path) -> str:
    """Return the hash that identifies the file name in a temporary's name."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


@cache
def _machine() -> str:
    """Return the hash that identifies this boot in a temporary's name; containers share it, as they share locks."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:8]
    except OSError:
        return secrets.token_hex(4)  # unique


class Spool:
    """An unnamed temporary file in `folder`, or in the system's temporary folder (TMPDIR), deleted when closed.

    Raises:
        OutputError: the system refuses; names the folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            is_local = folder is not None and not isinstance(folder, RemotePath)
            self.folder = folder if folder is not None and is_local else Path(tempfile.gettempdir())
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115 - closed in close()
        except OSError as error:
            raise output_error(folder or Path(os.environ.get("TMPDIR", "/tmp")), error) from error

    def write(self, data: memoryview, offset: int) -> None:
        _write(self._file.fileno(), data, offset, self.folder)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer; unwritten bytes, also beyond the end, read as zeros."""
        view = as_bytes(buffer)
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            except OSError as error:
                raise output_error(self.folder, error) from error
            if count == 0:
                view[done:] = bytes(len(view) - done)
                return
            done += count

    def close(self) -> None:
        self._file.close()


def private_mode(mode: int) -> int:
    """Return the mode of a copy of a file or folder: full access for the owner, unchanged for group and others."""
    return stat.S_IRWXU | mode & (stat.S_IRWXG | stat.S_IRWXO)


def as_bytes(buffer: memoryview) -> memoryview:
    """Return a flat view of the buffer's bytes."""
    return buffer.cast("B") if buffer.nbytes else memoryview(b"")


def copy_file(file: InputFile, target: Path, on_chunk: Callable[[], None] = lambda: None) -> None:
    """Copy an open file, which is then closed, to a new file that is not more readable.

    `on_chunk` is called before each chunk and may raise to stop.
    """
    with file, OutputFile(target, mode=file.mode) as output:
        file.read_ahead([(0, file.size)], 64 * CHUNK_BYTES)
        output.write_all(file.chunks(0, file.size, on_chunk))
        file.close()
        output.commit()


def forget_cached(path: Path) -> None:
    """Drop the page cache of a flushed file so that the next read comes from disk, where the system supports it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


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


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes on the folder's disk; None if the file system does not report them."""
    with blame_output(folder):
        usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None
