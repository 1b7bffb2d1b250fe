"""`.npz` files: zip archives in which each member `X.npy` is the tensor X.

Only NumPy's two methods, stored and deflated, are read. A member's CRC is checked before its first byte is returned.
The output has the same members in the same order, with the same names, methods and dates; members that are not
arrays, or hold Python objects, are tensors of opaque bytes, copied unchanged.
"""

import hashlib
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from qdqcli.escape import blame, escape_name
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.deflate import KEPT_RATIO, LEAST_PIECES, PIECE_BYTES, DeflatedMember, Pieces
from qdqcli.tensors.input_file import CHUNK_BYTES, FileIdentity, InputFile
from qdqcli.tensors.output_file import OutputFile
from qdqcli.tensors.spool import Spool
from qdqcli.tensors.stream import InputStream
from qdqcli.tensors.tensor import TensorInfo, span_error
from qdqcli.tensors.zip_member import ZipMember, read_members, zip_errors

OPEN_MEMBERS = 8
"""Deflated members whose inflate state a reader keeps; threads rarely read more of them at once."""


@dataclass(frozen=True, kw_only=True)
class NpzShard:
    """A `Shard` whose `TensorInfo.start` is an offset in the unpacked member."""

    path: Path
    name: str
    members: tuple[ZipMember, ...]
    """The members in directory order."""
    tensors: tuple[TensorInfo, ...]
    comment: bytes
    identity: FileIdentity

    @property
    def output_name(self) -> str:
        return self.name

    @property
    def marks(self) -> frozenset[str]:
        """Empty: an archive has no metadata."""
        return frozenset()

    @property
    def output_bytes(self) -> int:
        """Size of the archive plus its unpacked tensors, which are collected before the archive is written."""
        return self.identity.size + sum(tensor.nbytes for tensor in self.tensors)

    @contextmanager
    def open(self) -> Iterator["NpzReader"]:
        max_pieces = max(LEAST_PIECES, KEPT_RATIO * self.identity.size // PIECE_BYTES)
        with InputFile(self.path, expected=self.identity) as file, closing(Pieces(max_pieces)) as pieces:
            yield NpzReader(file, self.members, pieces)

    def header_digest(self) -> str:
        entries = [(m.info.filename, m.info.date_time, m.info.compress_type, m.header) for m in self.members]
        return hashlib.sha256(repr(entries).encode()).hexdigest()

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> "NpzWriter":
        if unfinished is not None:
            raise ValueError("an archive is written at the end: none is unfinished")
        if not isinstance(reader, NpzReader):
            raise TypeError(f"a reader that this shard opened is needed, not {type(reader).__name__}")
        return NpzWriter(path, reader, self)


def open_npz(path: Path, name: str, void_dtype: str | None = None) -> NpzShard:
    """Read and check the directory of an `.npz` file and every member's header.

    `name` is the file's name relative to its checkpoint; `void_dtype` as for `.npy` files.

    Raises:
        InputError: unreadable.
        MalformedError: the archive or a member's header violates its format; names the member.
    """
    with InputFile(path) as file:
        with zip_errors("is not a readable zip archive", file), zipfile.ZipFile(InputStream(file)) as archive:
            members = tuple(read_members(file, archive, name, void_dtype))
            comment = archive.comment
        return NpzShard(
            path=path,
            name=name,
            members=members,
            tensors=tuple(member.tensor for member in members if member.tensor is not None),
            comment=comment,
            identity=file.identity,
        )


class NpzReader:
    """Reads stored members directly and deflated ones by inflating them."""

    def __init__(self, file: InputFile, members: Sequence[ZipMember], pieces: Pieces) -> None:
        self.file = file
        self._members = {member.tensor.name: member for member in members if member.tensor is not None}
        self._lock = threading.Lock()
        self._checked: set[str] = set()
        self._pieces = pieces
        self._opened: OrderedDict[str, DeflatedMember] = OrderedDict()

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        if not 0 <= start <= tensor.nbytes - buffer.nbytes:
            raise span_error(tensor, start, buffer.nbytes)
        member = self._members[tensor.name]
        shown = escape_name(member.info.filename)
        with blame(self.file.path), zip_errors(f"member '{shown}'"):
            with self._lock:
                deflated = None if member.is_stored else self._open(member)
                if tensor.name not in self._checked:
                    self._check(member, deflated)
                    self._checked.add(tensor.name)
                if deflated is not None:
                    deflated.read_into(buffer, tensor.start + start)
                    return
            self.file.read_into(buffer, member.start + tensor.start + start)

    def read_batch(self, first: TensorInfo, buffer: memoryview) -> bool:  # noqa: ARG002 - each is a member
        return False

    def read_ahead(self, tensors: Iterable[TensorInfo], max_bytes: int) -> None:
        members = (self._members[tensor.name] for tensor in tensors)
        spans = ((member.start, member.start + member.info.compress_size) for member in members)
        self.file.read_ahead(spans, max_bytes)

    def _open(self, member: ZipMember) -> DeflatedMember:
        info = member.info
        deflated = self._opened.pop(info.filename, None)
        if deflated is None:
            if len(self._opened) == OPEN_MEMBERS:
                self._opened.popitem(last=False)
            deflated = DeflatedMember(self.file, member.start, info.compress_size, info.file_size, self._pieces)
        self._opened[info.filename] = deflated
        return deflated

    def _check(self, member: ZipMember, deflated: DeflatedMember | None) -> None:
        if deflated is not None:
            found = deflated.checksum()
        else:
            found = 0
            for part in self.file.chunks(member.start, member.info.file_size):
                found = zlib.crc32(part, found)
        if found != member.info.CRC:
            raise ValueError(f"its CRC-32 is {found:08x}, {member.info.CRC:08x} expected")


class NpzWriter:
    """Collects the tensors in an unnamed temporary file beside the output; `commit` packs them into the archive."""

    def __init__(self, path: Path, reader: NpzReader, shard: NpzShard) -> None:
        self._shard = shard
        starts = accumulate((tensor.nbytes for tensor in shard.tensors), initial=0)
        self._offsets = {tensor.name: start for tensor, start in zip(shard.tensors, starts, strict=False)}
        """Name -> offset in the temporary file."""
        self._file = OutputFile(path, mode=reader.file.mode)
        with ExitStack() as undo:
            undo.callback(self._file.abort)
            self._spool = Spool(path.parent)
            undo.pop_all()

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        if not 0 <= start <= tensor.nbytes - data.nbytes:
            raise span_error(tensor, start, data.nbytes)
        self._spool.write(data, self._offsets[tensor.name] + start)

    def write_batch(self, first: TensorInfo, data: memoryview) -> bool:  # noqa: ARG002 - each is a member
        return False

    def sync(self) -> None:
        return None

    def commit(self) -> None:
        with self._file.stream() as file, zipfile.ZipFile(file, "w") as archive:
            for member in self._shard.members:
                self._pack(archive, member)
            archive.comment = self._shard.comment
        self._spool.close()
        self._file.commit()

    def suspend(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._spool.close()
        self._file.abort()

    def _pack(self, archive: zipfile.ZipFile, member: ZipMember) -> None:
        tensor = member.tensor
        begin, nbytes = (0, 0) if tensor is None else (self._offsets[tensor.name], tensor.nbytes)
        buffer = memoryview(bytearray(min(CHUNK_BYTES, nbytes)))
        with archive.open(_same_entry(member.info), "w") as stream:
            stream.write(member.header)
            for start in range(0, nbytes, CHUNK_BYTES):
                part = buffer[: nbytes - start]
                self._spool.read_into(part, begin + start)
                stream.write(part)


def _same_entry(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Copy the input's directory entry, for data of the same size."""
    entry = zipfile.ZipInfo(info.filename, info.date_time)
    entry.compress_type = info.compress_type
    entry.create_system = info.create_system
    entry.external_attr = info.external_attr
    entry.internal_attr = info.internal_attr
    entry.comment = info.comment
    entry.file_size = info.file_size  # tells `zipfile` whether the entry needs 64-bit sizes
    return entry
