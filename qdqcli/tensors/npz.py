"""`.npz` files: a zip archive in which each member `X.npy` is the tensor X.

Only the two methods that NumPy writes are read, stored and deflated. A member is checked against its CRC before its
first byte is handed out. The output has the same members in the same order, with the same names, methods and dates.
"""

import hashlib
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qdqcli.errors import OutputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.storage import CHUNK_BYTES, FileIdentity, InputFile, OutputFile, Spool, free_bytes
from qdqcli.tensors.stream import InputStream, OutputStream
from qdqcli.tensors.tensor import TensorInfo, check_range
from qdqcli.tensors.zip_member import Member, read_members, zip_errors

UNPACKED_MEMBERS = 8
"""Members that a reader keeps unpacked; threads that read more of them at once unpack again and again."""


@dataclass(frozen=True, kw_only=True)
class NpzShard:
    """A `Shard` whose `TensorInfo.start` are offsets in the unpacked members."""

    path: Path
    name: str
    members: tuple[Member, ...]
    """In the order of the archive's directory."""
    tensors: tuple[TensorInfo, ...]
    comment: bytes
    identity: FileIdentity

    @property
    def output_bytes(self) -> int:
        """The archive, and its tensors unpacked, which are collected before it is written."""
        return self.identity.size + sum(member.tensor.nbytes for member in self.members)

    def open(self) -> "NpzReader":
        return NpzReader(InputFile(self.path, expected=self.identity), self.members)

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
    """Read and check the directory of an `.npz` file and the header of every member.

    `name` is the file's name relative to its checkpoint; `void_dtype` as for `.npy` files.

    Raises:
        InputError: unreadable or malformed; names the file and the member.
    """
    with InputFile(path) as file, blame(path):
        with zip_errors("is not a readable zip archive", file), zipfile.ZipFile(InputStream(file)) as archive:
            members = tuple(read_members(file, archive, name, void_dtype))
            comment = archive.comment
        return NpzShard(
            path=path,
            name=name,
            members=members,
            tensors=tuple(member.tensor for member in members),
            comment=comment,
            identity=file.identity,
        )


class NpzReader:
    """Reads stored members where they lie, deflated ones from an unnamed temporary file each."""

    def __init__(self, file: InputFile, members: Sequence[Member]) -> None:
        self._file = file
        self._members = {member.tensor.name: member for member in members}
        self._lock = threading.Lock()
        self._checked: set[str] = set()
        self._unpacked: OrderedDict[str, Spool] = OrderedDict()
        with ExitStack() as undo, blame(file.path), zip_errors("is not a readable zip archive"):
            undo.callback(file.close)
            self._archive = zipfile.ZipFile(InputStream(file))
            undo.pop_all()

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        check_range(tensor, start, buffer.nbytes)
        member = self._members[tensor.name]
        if member.is_stored:
            self._check(member)
            self._file.read_into(buffer, member.start + tensor.start + start)
        else:
            with self._lock:  # held while reading: another thread may drop the temporary
                self._unpack(member).read_into(buffer, tensor.start + start)

    def place(self, tensor: TensorInfo) -> None:  # noqa: ARG002 - members are compressed, and have a checksum
        return None

    @property
    def mode(self) -> int:
        """Permissions of the archive."""
        return self._file.mode

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def close(self) -> None:
        self._drop()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drop()
        self._file.__exit__(kind, error, traceback)

    def _drop(self) -> None:
        self._archive.close()
        while self._unpacked:
            self._unpacked.popitem()[1].close()

    def _check(self, member: Member) -> None:
        with self._lock:
            if member.tensor.name not in self._checked:
                self._stream(member, _discard)
                self._checked.add(member.tensor.name)

    def _unpack(self, member: Member) -> Spool:
        name = member.tensor.name
        if name in self._unpacked:
            self._unpacked.move_to_end(name)
            return self._unpacked[name]
        if len(self._unpacked) == UNPACKED_MEMBERS:
            self._unpacked.popitem(last=False)[1].close()
        spool = Spool()
        with ExitStack() as undo:
            undo.callback(spool.close)
            _check_room(spool.folder, member.info.file_size)
            self._stream(member, spool.write)
            undo.pop_all()
        self._unpacked[name] = spool
        return spool

    def _stream(self, member: Member, sink: Callable[[memoryview, int], None]) -> None:
        """Give the unpacked member to `sink` in pieces; `zipfile` compares the CRC at its end."""
        shown = escape_name(member.info.filename)
        done = 0
        with blame(self._file.path), zip_errors(f"member '{shown}'"), self._archive.open(member.info) as stream:
            while data := stream.read(CHUNK_BYTES):
                sink(memoryview(data), done)
                done += len(data)
            if done != member.info.file_size:
                raise MalformedError(f"member '{shown}': has {done} bytes, {member.info.file_size} expected")


def _discard(data: memoryview, offset: int) -> None:
    del data, offset


def _check_room(folder: Path, needed: int) -> None:
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise OutputError(
            f"{show_path(folder)}: unpacking needs {needed} bytes but the disk has {free} free; set TMPDIR to a folder "
            "with more space"
        )


class NpzWriter:
    """Collects the tensors in an unnamed temporary file beside the output; `commit` packs them."""

    def __init__(self, path: Path, reader: NpzReader, shard: NpzShard) -> None:
        self._reader = reader
        self._shard = shard
        self._offsets = dict(_offsets(shard.tensors))
        self._file = OutputFile(path, mode=reader.mode)
        with ExitStack() as undo:
            undo.callback(self._file.abort)
            self._spool = Spool(path.parent)
            undo.pop_all()

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        check_range(tensor, start, data.nbytes)
        self._spool.write(data, self._offsets[tensor.name] + start)

    def copy(self, tensor: TensorInfo, on_chunk: Callable[[], None] = lambda: None) -> None:
        buffer = memoryview(bytearray(min(CHUNK_BYTES, tensor.nbytes)))
        for start in range(0, tensor.nbytes, CHUNK_BYTES):
            on_chunk()
            part = buffer[: tensor.nbytes - start]
            self._reader.read_into(tensor, start, part)
            self.write(tensor, start, part)

    def place(self, tensor: TensorInfo) -> None:  # noqa: ARG002 - members are packed at the end
        return None

    def sync(self) -> None:
        return None

    def commit(self) -> None:
        self._reader.check_unchanged()
        with zipfile.ZipFile(OutputStream(self._file), "w") as archive:
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

    def _pack(self, archive: zipfile.ZipFile, member: Member) -> None:
        begin, nbytes = self._offsets[member.tensor.name], member.tensor.nbytes
        buffer = memoryview(bytearray(min(CHUNK_BYTES, nbytes)))
        with archive.open(_same_entry(member.info), "w") as stream:
            stream.write(member.header)
            for start in range(0, nbytes, CHUNK_BYTES):
                part = buffer[: nbytes - start]
                self._spool.read_into(part, begin + start)
                stream.write(part)


def _offsets(tensors: Sequence[TensorInfo]) -> Iterator[tuple[str, int]]:
    """Where each tensor lies in the writer's temporary file: one behind the other."""
    offset = 0
    for tensor in tensors:
        yield tensor.name, offset
        offset += tensor.nbytes


def _same_entry(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """A directory entry like the input's, for data of the same size."""
    entry = zipfile.ZipInfo(info.filename, info.date_time)
    entry.compress_type = info.compress_type
    entry.create_system = info.create_system
    entry.external_attr = info.external_attr
    entry.internal_attr = info.internal_attr
    entry.comment = info.comment
    entry.file_size = info.file_size  # tells `zipfile` whether the entry needs 64-bit sizes
    return entry
