"""A log in a store, which cannot append: an object a line, numbered."""

from qdqcli.output.line_log import line_of, parse_lines
from qdqcli.tensors.remote import submit
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output

FIRST = f"{0:08}"
"""Name of the first line; without it there is no log, but what is left of one that was being removed."""


class RemoteLog:
    """The log below `path`; `lines` are those found when it was opened.

    Raises:
        OutputError: the store refuses; names the path.
    """

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        with blame_output(path):
            names = list(path.store.objects(path))
            if FIRST not in names:
                names = []
            self.lines: list[str] = []
            for future in [submit(path.store.open, path / name) for name in names]:
                described, first = future.result()
                rest = (
                    path.store.read(path, described, len(first), described.size) if described.size > len(first) else b""
                )
                self.lines += parse_lines(first + bytes(rest))[0]
        self._num_written = len(names)

    def append(self, line: str) -> None:
        """Append one line."""
        target = self._path / f"{self._num_written:08}"
        with blame_output(self._path):
            target.store.put(target, line_of(line.encode()))
        self._num_written += 1

    def sync(self) -> None:
        """Do nothing: a line is there once it was sent."""

    def close(self) -> None:
        """Do nothing: nothing is open."""
