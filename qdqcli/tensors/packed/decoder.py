"""Decoder protocol: the values of a packed weight, row by row, read from its parts."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import prod
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qdqcli.escape import MalformedError, escape_name
from qdqcli.op import kernels
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.packed.format import CODES, SCALE, PackedWeight
from qdqcli.tensors.packed.storage import CodeGrid
from qdqcli.tensors.packed.values import NUMPY, as_float32
from qdqcli.tensors.tensor import TensorInfo, plain_shape

Floats = NDArray[np.float32]
Stored = NDArray[Any]
"""Elements as stored: integers, or the bytes of a dtype of `NUMPY`."""

CACHED_BYTES = 128 << 20
"""Parts kept in memory between the rows of a weight: scales, and codes that are packed along the columns."""


STRIP_BYTES = 16 << 20
"""Columns of a larger part that are read together: one row at a time is a read of a few hundred bytes."""


class Decoder(Protocol):
    """The values of one packed weight.

    1. A value is what the format defines, in float32, its product of code and scale rounded once.
    2. `rows` may be called from several threads and takes memory in proportion to the rows.
    3. A part that contradicts another is a `MalformedError` that names its tensor; shapes are checked when it is made.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight in a float checkpoint."""

    @property
    def grid(self) -> CodeGrid:
        """Bits, and the block of the last two dimensions that shares a scale."""

    def rows(self, parts: "Parts", start: int, stop: int, out: Floats) -> None:
        """Fill `out` with rows [start, stop) of the weight as a matrix, which has its last dimension as columns."""


class Key(NamedTuple):
    """A part of an open checkpoint."""

    shard: str
    name: str


class _Whole:
    """A part, read by the first thread that needs it while others wait."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._array: Stored | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._array is None else self._array.nbytes

    def get(self, read: Callable[[], Stored]) -> Stored:
        with self._lock:
            if self._array is None:
                self._array = read()
            return self._array


class PartCache:
    """Whole parts that were read, up to `CACHED_BYTES`; the least recently used go first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._parts: OrderedDict[Key, _Whole] = OrderedDict()

    def get(self, key: Key, read: Callable[[], Stored]) -> Stored:
        """Return the array, reading it where it is not kept."""
        with self._lock:
            part = self._parts.setdefault(key, _Whole())
            self._parts.move_to_end(key)
        array = part.get(read)
        with self._lock:
            while len(self._parts) > 1 and sum(part.nbytes for part in self._parts.values()) > CACHED_BYTES:
                self._parts.popitem(last=False)
        return array


class Parts:
    """Reader of the parts of one packed weight, by role."""

    def __init__(self, weight: PackedWeight, reader_of: Callable[[str], ShardReader], cache: PartCache) -> None:
        self.weight = weight
        self._reader_of = reader_of
        self._cache = cache

    def __contains__(self, role: str) -> bool:
        return role in self.weight.parts

    def info(self, role: str) -> TensorInfo:
        """Return the header record of a part."""
        return self.weight.parts[role]

    def whole(self, role: str) -> Stored:
        """Return a whole part, in its shape."""
        info = self.info(role)
        return self._cache.get(Key(info.shard, info.name), lambda: self._read(info, 0, info.num_elements)).reshape(
            info.shape
        )

    def floats(self, role: str) -> Floats:
        """Return a whole part as float32."""
        return as_float32(self.whole(role), self.info(role).dtype.name)

    def rows(self, role: str, start: int, stop: int, width: int | None = None) -> Stored:
        """Return rows [start, stop) of a part as a matrix of that width, by default its last dimension."""
        info = self.info(role)
        if width is None:
            width = info.shape[-1] if info.shape else 1
        return self._read(info, start * width, stop * width).reshape(stop - start, width)

    def row_bytes(self, role: str, start: int, stop: int) -> Stored:
        """Return rows [start, stop) of a part of blocks as bytes, a row each."""
        info = self.info(role)
        width = info.nbytes // num_rows(info.shape)
        out = np.empty((stop - start, width), np.uint8)
        self._reader_of(info.shard).read_into(info, start * width, out.data.cast("B"))
        return out

    def matrix(self, role: str, index: int, height: int) -> Stored:
        """Return one matrix, kept in memory, of a part that is a stack of matrices with that many rows."""
        info = self.info(role)
        key = Key(info.shard, f"{info.name}\n{index}")
        return self._cache.get(key, lambda: self.rows(role, index * height, (index + 1) * height))

    def columns(self, role: str, start: int, stop: int) -> Stored:
        """Return columns [start, stop) of a matrix."""
        pieces = [strip[:, begin:end] for strip, begin, end in self._strips(role, start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def transposed(self, role: str, start: int, stop: int) -> Stored:
        """Return columns [start, stop) of a matrix as contiguous rows."""
        info = self.info(role)
        if info.dtype.bits != 32:
            return np.ascontiguousarray(self.columns(role, start, stop).T)
        height = info.shape[0]
        out, row = np.empty((stop - start, height), NUMPY[info.dtype.name]), 0
        for strip, begin, end in self._strips(role, start, stop):
            stored, rows = (array.reshape(-1).view(np.int32) for array in (strip, out[row : row + end - begin]))
            kernels.gather_columns(stored, strip.shape[1], begin, end - begin, rows, 0, height)
            row += end - begin
        return out

    def _strips(self, role: str, start: int, stop: int) -> Iterator[tuple[Stored, int, int]]:
        """Yield strips of a matrix, kept in memory, with the columns of each that are among [start, stop)."""
        info = self.info(role)
        if info.nbytes <= CACHED_BYTES:
            yield self.whole(role), start, stop
            return
        wide = max(STRIP_BYTES * info.shape[1] // info.nbytes, 1)
        for first in range(start - start % wide, stop, wide):
            yield self._strip(role, first, wide), max(start - first, 0), min(stop - first, wide)

    def _strip(self, role: str, first: int, wide: int) -> Stored:
        """Return at most `wide` columns of a matrix, read row by row."""
        info = self.info(role)
        height, width = info.shape

        def read() -> Stored:
            out = np.empty((height, min(wide, width - first)), NUMPY[info.dtype.name])
            reader = self._reader_of(info.shard)
            for row in range(height):
                reader.read_into(info, (row * width + first) * out.itemsize, out[row].view(np.uint8).data)
            return out

        return self._cache.get(Key(info.shard, f"{info.name}\n{first}"), read)

    def damaged(self, role: str, problem: str) -> MalformedError:
        """Return the error on a part."""
        return damaged(self.weight, role, problem)

    def check_finite(self, values: Floats, role: str = SCALE) -> Floats:
        """Return scales as they are.

        Raises:
            MalformedError: one is NaN or infinite; names the tensor.
        """
        if not np.isfinite(values).all():
            raise self.damaged(role, "NaN or infinite elements; the weight cannot be decoded")
        return values

    def _read(self, info: TensorInfo, start: int, stop: int) -> Stored:
        out = np.empty(stop - start, NUMPY[info.dtype.name])
        self._reader_of(info.shard).read_into(info, start * out.itemsize, out.view(np.uint8).data)
        return out


def damaged(weight: PackedWeight, role: str, problem: str) -> MalformedError:
    """Return the error on a part of a packed weight: it names the tensor and the format; `blame` adds the file."""
    info = weight.parts.get(role, weight.parts[CODES])
    where = "" if info.shard == weight.parts[CODES].shard else f" in {escape_name(info.shard)}"
    return MalformedError(f"tensor '{escape_name(info.name)}'{where}, {role} of {weight.format.name}: {problem}")


def check_shape(weight: PackedWeight, role: str, *expected: Sequence[int]) -> None:
    """Check the shape of a part, where it is there.

    Raises:
        MalformedError: it is none of the expected ones; names the tensor.
    """
    info = weight.parts.get(role)
    if info is not None and info.shape not in map(tuple, expected):
        wanted = " or ".join(map(plain_shape, expected))
        raise damaged(weight, role, f"its shape is {plain_shape(info.shape)}, expected {wanted}")


def num_rows(shape: Sequence[int]) -> int:
    """Return the rows of a weight as a matrix."""
    return prod(shape[:-1])
