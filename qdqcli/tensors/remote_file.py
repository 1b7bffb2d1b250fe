"""An opened object: its first bytes, and ranges of it, requested ahead of their use where it is known what follows."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future
from threading import Lock
from typing import TYPE_CHECKING

from qdqcli.tensors.input_file import Span
from qdqcli.tensors.remote import CONNECTIONS, opened, submit
from qdqcli.tensors.remote_path import RemotePath

if TYPE_CHECKING:
    from obstore import Bytes

PIECE_BYTES = 8 << 20
"""Size of a range that is requested ahead; smaller ones spend more time on waiting than on reading."""
LEAST_PIECE_BYTES = 1 << 20
GAP_BYTES = 64 << 10
"""Bytes between two ranges that are read rather than left out: a request takes longer."""


class RemoteFile:
    """An object as it was when it was opened: a read fails if it was replaced since.

    `is_expected`: the caller compares the status with an earlier one, so that an object that was described before needs
    no request.
    """

    def __init__(self, path: RemotePath, *, is_expected: bool) -> None:
        self._path = path
        self._store = path.store
        self._object, self._head = opened(path, is_expected=is_expected)
        self.status = self._object.status
        self._ahead: _Ahead | None = None

    def read(self, view: memoryview, offset: int) -> int:
        """Fill the view, or its begin, from `offset` on; return the number of bytes, 0 at the end of the object."""
        stop = min(offset + len(view), self._object.size)
        if stop <= len(self._head):
            view[: stop - offset] = self._head[offset:stop]
            return max(stop - offset, 0)
        found = None if self._ahead is None else self._ahead.find(offset)
        if found is None:
            found = offset, self._fetch(offset, stop)
        start, data = found
        part = memoryview(data)[offset - start : stop - start]
        view[: len(part)] = part
        return len(part)

    def read_ahead(self, spans: Iterable[Span], max_bytes: int) -> None:
        """Request these parts of the object ahead of their use, in this order, at most `max_bytes` of memory."""
        self.close()
        self._ahead = _Ahead(self, _joined(spans), max_bytes)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _fetch(self, start: int, stop: int) -> "Bytes":
        return self._store.read(self._path, self._object, start, stop)


class _Ahead:
    """Pieces of an object in memory or on their way. The least recently used give way to the next."""

    def __init__(self, file: RemoteFile, spans: Sequence[Span], max_bytes: int) -> None:
        # While a piece arrives it takes twice its size.
        size = min(max(max_bytes // (4 * CONNECTIONS), LEAST_PIECE_BYTES), PIECE_BYTES)
        self._file = file
        self._pieces = [(a, min(a + size, stop)) for start, stop in spans for a in range(start, stop, size)]
        self._starts = [start for start, _ in self._pieces]
        self._capacity = max(2, max_bytes // size - CONNECTIONS)
        self._depth = max(1, min(CONNECTIONS, self._capacity // 2))
        self._held: OrderedDict[int, Future[Bytes]] = OrderedDict()
        self._lock = Lock()

    def find(self, offset: int) -> tuple[int, "Bytes"] | None:
        """Return the piece that holds the offset, with its begin; None where there is none."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset >= self._pieces[index][1]:
            return None
        try:
            return self._starts[index], self._request(index).result()
        except CancelledError:  # it gave way to a piece that another thread needs
            return None

    def _request(self, index: int) -> "Future[Bytes]":
        """Request a piece and those behind it."""
        stop = min(index + self._depth, len(self._pieces))
        with self._lock:
            for i in range(index, stop):
                if i not in self._held:
                    self._held[i] = submit(self._file._fetch, *self._pieces[i])
            self._held.move_to_end(index)
            found = self._held[index]
            for i in [i for i in self._held if not index <= i < stop][: max(0, len(self._held) - self._capacity)]:
                self._held.pop(i).cancel()
            return found

    def close(self) -> None:
        with self._lock:
            for future in self._held.values():
                future.cancel()
            self._held.clear()


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, those with less than `GAP_BYTES` between them as one."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined
