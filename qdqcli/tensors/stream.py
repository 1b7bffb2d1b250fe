"""Stream over an `InputFile`, as `zipfile` needs it."""

import errno
import io
import os

from qdqcli.tensors.input_file import InputFile


class InputStream(io.RawIOBase):
    """An `InputFile` as a stream. Closing it leaves the file open."""

    LARGEST_READ = 16 << 20
    """Limit on one read, in bytes: `zipfile` reads a directory in one piece, of whatever length it claims."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "seek before the beginning")  # `zipfile` probes for this
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._file.size - self._position)
        length = rest if size is None or size < 0 else min(size, rest)
        if length > self.LARGEST_READ:
            raise ValueError(f"a directory of {length} bytes")
        data = self._file.read(self._position, length)
        self._position += len(data)
        return data
