"""Append-only log of lines: complete lines survive a kill, torn ones are dropped.

Each line starts with a checksum. Reading stops at the first torn or damaged line.
"""

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qdqcli.errors import OutputError
from qdqcli.escape import show_path
from qdqcli.tensors.output_file import sync_folder, write_file
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output

if TYPE_CHECKING:
    from qdqcli.output.remote_log import RemoteLog


class LineLog:
    """The log at `path`, created if missing; `lines` are those found when it was opened.

    Raises:
        OutputError: the system refuses; names the path.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_named = False
        """True once the file's name is on the disk."""
        with blame_output(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
            try:
                data = path.read_bytes()
                self.lines, end = parse_lines(data) if data else ([], 0)
                if end < len(data):
                    os.ftruncate(self._descriptor, end)
            except BaseException:
                self.close()
                raise

    def append(self, line: str) -> None:
        """Append one line in a single write: after a kill it is complete or torn."""
        data = line_of(line.encode())
        with blame_output(self.path):
            if os.write(self._descriptor, data) != len(data):
                raise OutputError(f"{show_path(self.path)}: a line was cut short; the disk may be full")

    def sync(self) -> None:
        """Flush all lines and the file's name to disk."""
        with blame_output(self.path):
            os.fsync(self._descriptor)
        if not self._is_named:
            sync_folder(self.path.parent)
            self._is_named = True

    def close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):  # of a late write, on a network disk: lines that count were flushed by `sync`
                os.close(self._descriptor)
            self._descriptor = -1


def open_log(path: Path) -> "LineLog | RemoteLog":
    """Open the log at `path`, here or in a store."""
    if not isinstance(path, RemotePath):
        return LineLog(path)
    from qdqcli.output.remote_log import RemoteLog  # lazy: it imports this file

    return RemoteLog(path)


def begin_log(path: Path, lines: Sequence[str]) -> None:
    """Write the log at `path`, here or in a store.

    Raises:
        UsageError: there is one.
        OutputError: the system refuses.
    """
    if isinstance(path, RemotePath):
        from qdqcli.output.remote_log import FIRST

        path = path / FIRST
    write_file(path, (line_of(line.encode()) for line in lines), replaces=False)


def read_lines(path: Path) -> list[str]:
    """Return the complete lines of a log; none if there is no log."""
    if isinstance(path, RemotePath):
        return open_log(path).lines
    try:
        return parse_lines(path.read_bytes())[0]
    except OSError:
        return []


def line_of(text: bytes) -> bytes:
    """Return a line of a log: the text behind its checksum."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def parse_lines(data: bytes) -> tuple[list[str], int]:
    """Return the complete lines up to the first bad one, and the offset of their end."""
    lines: list[str] = []
    end = 0
    for line in data.splitlines(keepends=True):
        text = line[9:-1]
        if line != line_of(text):
            break
        lines.append(text.decode())
        end += len(line)
    return lines, end
