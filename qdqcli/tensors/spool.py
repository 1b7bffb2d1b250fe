"""Unnamed temporary files."""

import os
import tempfile
from pathlib import Path

from qdqcli.tensors.output_file import write_at
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import output_error


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
        write_at(self._file.fileno(), data, offset, self.folder)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer; unwritten bytes, also beyond the end, read as zeros."""
        done = 0
        while done < buffer.nbytes:
            rest = buffer.cast("B")[done:]
            try:
                count = os.preadv(self._file.fileno(), [rest], offset + done)
            except OSError as error:
                raise output_error(self.folder, error) from error
            if count == 0:
                rest[:] = bytes(len(rest))
                return
            done += count

    def close(self) -> None:
        self._file.close()
