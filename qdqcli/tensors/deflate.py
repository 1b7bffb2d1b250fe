"""Random access to a deflated member of an archive.

A small archive may unpack to terabytes, so the temporary file is bounded by the archive's size: it caches the pieces
read last. A piece that is not cached is inflated again from the nearest of several restart points in the member; highly
compressible data inflates about as fast as a disk is read.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from qdqcli.errors import OutputError
from qdqcli.tensors.input_file import CHUNK_BYTES, InputFile
from qdqcli.tensors.spool import Spool

PIECE_BYTES = CHUNK_BYTES
"""Bytes inflated at a time."""
LEAST_PIECES = 64
"""Minimum number of cached pieces: threads that scan a tensor in parallel are closer together than this."""
KEPT_RATIO = 4
"""Cache size as a multiple of the archive's size; weights rarely compress to half their size."""
MAX_POINTS = 64
"""Maximum number of restart points per member; each holds the 40 KB of inflate state."""

_INPUT_BYTES = 1 << 14


class Pieces:
    """LRU cache of inflated pieces of all members of an archive, at most `limit`, in a temporary file."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slots: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._spool: Spool | None = None

    def read_into(self, key: tuple[int, int], buffer: memoryview, offset: int) -> bool:
        """Fill the buffer with the piece's bytes from `offset` on; return False if the piece is not cached."""
        slot = self._slots.get(key)
        if slot is None or self._spool is None:
            return False
        self._slots.move_to_end(key)
        self._spool.read_into(buffer, slot * PIECE_BYTES + offset)
        return True

    def keep(self, key: tuple[int, int], piece: bytes) -> None:
        """Cache the piece, evicting the least recently used one if the cache is full."""
        if not self.limit:
            return
        slot = self._slots.pop(key, None)
        if slot is None:
            slot = len(self._slots) if len(self._slots) < self.limit else self._slots.popitem(last=False)[1]
        try:
            self._spool = self._spool or Spool()
            self._spool.write(memoryview(piece), slot * PIECE_BYTES)
        except OutputError:  # no space, or no folder for temporary files: stop caching
            self.limit = 0
        else:
            self._slots[key] = slot

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()


@dataclass
class _Cursor:
    """Position in the deflated data from which inflation can resume."""

    inflate: "zlib._Decompress"
    consumed: int = 0
    """Number of deflated bytes passed to `inflate`."""
    num_pieces: int = 0
    """Number of pieces inflated before this position."""

    def copy(self) -> "_Cursor":
        return _Cursor(self.inflate.copy(), self.consumed, self.num_pieces)


class DeflatedMember:
    """The inflated bytes of one member; not thread-safe.

    `start` and `packed_bytes` locate the deflated data in `file`; `size` is the expected inflated size.
    """

    def __init__(self, file: InputFile, start: int, packed_bytes: int, size: int, pieces: Pieces) -> None:
        self._file, self._start, self._packed_bytes, self._size = file, start, packed_bytes, size
        self._pieces = pieces
        self._num_pieces = -(-size // PIECE_BYTES)
        self._spacing = max(8, -(-self._num_pieces // MAX_POINTS))
        self._cursor = _Cursor(zlib.decompressobj(-zlib.MAX_WBITS))
        self._points = [self._cursor.copy()]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the inflated bytes from `offset` on.

        Raises:
            ValueError: the data does not inflate to `size` bytes.
            zlib.error: the data is damaged.
        """
        view = buffer.cast("B") if buffer.nbytes else buffer
        while view.nbytes:
            index, begin = divmod(offset, PIECE_BYTES)
            part = view[: PIECE_BYTES - begin]
            if not self._pieces.read_into((self._start, index), part, begin):
                part[:] = self._inflate_piece(index)[begin : begin + part.nbytes]
            view, offset = view[part.nbytes :], offset + part.nbytes

    def checksum(self) -> int:
        """Return the CRC-32 of all inflated bytes; raises like `read_into`, also when there are more than `size`."""
        crc = 0
        for index in range(self._num_pieces):
            crc = zlib.crc32(self._inflate_piece(index), crc)
        if any(self._inflated(1)):
            raise ValueError(f"has more than {self._size} bytes")
        return crc

    def _inflate_piece(self, index: int) -> bytes:
        """Inflate the piece; cache it and the pieces before it on the way."""
        before = [cursor for cursor in (self._cursor, *self._points) if cursor.num_pieces <= index]
        nearest = max(before, key=lambda cursor: cursor.num_pieces)
        self._cursor = nearest if nearest is self._cursor else nearest.copy()
        while True:
            number = self._cursor.num_pieces
            piece = self._next_piece()
            self._pieces.keep((self._start, number), piece)
            if number == index:
                return piece

    def _next_piece(self) -> bytes:
        number = self._cursor.num_pieces
        if number == len(self._points) * self._spacing:
            self._points.append(self._cursor.copy())
        wanted = min(PIECE_BYTES, self._size - number * PIECE_BYTES)
        piece = b"".join(self._inflated(wanted))
        if len(piece) < wanted:
            raise ValueError(f"has {number * PIECE_BYTES + len(piece)} bytes, {self._size} expected")
        self._cursor.num_pieces += 1
        return piece

    def _inflated(self, wanted: int) -> Iterator[bytes]:
        """Yield up to `wanted` bytes that follow the cursor, in parts."""
        cursor = self._cursor
        while wanted and not cursor.inflate.eof:
            data = cursor.inflate.unconsumed_tail
            if not data:
                length = min(_INPUT_BYTES, self._packed_bytes - cursor.consumed)
                data = self._file.read(self._start + cursor.consumed, length)
                cursor.consumed += len(data)
            part = cursor.inflate.decompress(data, wanted)
            if not data and not part:
                return
            wanted -= len(part)
            yield part
