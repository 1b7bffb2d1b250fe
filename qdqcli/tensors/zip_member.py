"""Members of a zip archive of arrays: data offsets and array headers.

Like NumPy, recognises an array by its first bytes, also without a `.npy` suffix.

Stricter than `zipfile`, which accepts overlapping members, duplicate names and hidden bytes before and after, and
checks a CRC only when a member is read to its end.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.npy import MAGIC, PREFIX_BYTES, ObjectArrayError, parse_npy
from qdqcli.tensors.signature import SNIFF_BYTES, describe
from qdqcli.tensors.tensor import DType, TensorInfo

OBJECT, BYTE = "|O", "|V1"
"""NumPy dtype names of copied members: arrays of Python objects, and anything that is not an array."""

_ENCRYPTED = 0x1 | 0x40
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s6xH")
_COUNT_IS_ELSEWHERE = 0xFFFF
"""Sentinel: the archive has more members than this field can count (zip64)."""
_END_BYTES = 22
"""Size of the archive's end record without its comment."""

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
"""Exceptions that `zipfile` raises for damaged archives."""


@dataclass(frozen=True, kw_only=True)
class ZipMember:
    """One member of the archive."""

    info: zipfile.ZipInfo
    start: int
    """Offset of its (packed) data in the file."""
    header: bytes
    """Array header: the bytes before the data."""
    tensor: TensorInfo | None
    """The array; the whole member as opaque bytes if it is not an array or needs a pickle; None for a folder."""

    @property
    def is_stored(self) -> bool:
        return self.info.compress_type == zipfile.ZIP_STORED


def read_members(file: InputFile, archive: zipfile.ZipFile, shard: str, void_dtype: str | None) -> Iterator[ZipMember]:
    """Yield every member in directory order; `shard` goes into the tensors.

    Raises:
        MalformedError: a member is malformed or a name occurs twice; names the member.
    """
    infos = archive.infolist()
    _check_names(infos)
    keys: set[str] = set()
    has_array = not infos
    for info, start in zip(infos, _check_layout(file, infos, archive), strict=True):
        member = _read_member(archive, info, start, shard, void_dtype)
        yield member
        if member.tensor is None:
            continue
        if member.tensor.name in keys:
            raise MalformedError(f"member '{escape_name(info.filename)}': there are two of this name")
        keys.add(member.tensor.name)
        has_array = has_array or bool(member.header) or member.tensor.dtype.name == OBJECT
    if not has_array:
        raise MalformedError(f"none of its {len(infos)} members is an array (.npy); is it another kind of archive?")


@contextmanager
def zip_errors(what: str, file: InputFile | None = None) -> Iterator[None]:
    """Convert `zipfile` exceptions to `MalformedError`: `what`, the reason and, if given, the real type of `file`."""
    try:
        yield
    except _ZIP_ERRORS as error:
        found = describe(file.read(0, SNIFF_BYTES), expected="a zip archive") if file is not None else None
        reason = escape_name(str(error) or type(error).__name__)
        raise MalformedError(f"{what}: {reason}; {found or 'the file is damaged'}") from error


def _check_names(infos: Sequence[zipfile.ZipInfo]) -> None:
    for info in infos:
        shown = escape_name(info.orig_filename)
        parts = info.orig_filename.removesuffix("/").split("/")
        is_safe = not any(char in info.orig_filename for char in "\\\0:") and not {"", ".", ".."} & set(parts)
        if not is_safe:
            raise MalformedError(f"member '{shown}': its name is not a safe relative path")
        if info.flag_bits & _ENCRYPTED:
            raise MalformedError(f"member '{shown}': is encrypted; decrypt the archive first")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedError(f"member '{shown}': compression method {info.compress_type} is not read; repack it")


def _check_layout(file: InputFile, infos: Sequence[zipfile.ZipInfo], archive: zipfile.ZipFile) -> list[int]:
    """Return each member's data offset; refuse overlapping members and bytes before or after the archive."""
    signature, count = _END.unpack(file.read(file.size - _END_BYTES - len(archive.comment), _END.size))
    if signature != b"PK\5\6":
        raise MalformedError("has bytes behind the end of the zip archive, which would be lost")
    if count not in (len(infos), _COUNT_IS_ELSEWHERE):
        raise MalformedError(f"its directory holds {len(infos)} members, {count} expected; the file is damaged")
    starts = [_data_start(file, info) for info in infos]
    end = 0
    for start, info in sorted(zip(starts, infos, strict=True), key=lambda pair: pair[0]):
        if info.header_offset < end:
            raise MalformedError(f"member '{escape_name(info.filename)}': overlaps the member before it")
        end = start + info.compress_size
    directory = archive.start_dir
    if end > directory:
        raise MalformedError(f"its members end at byte {end} but the directory begins at {directory}")
    if min((info.header_offset for info in infos), default=directory) != 0:
        raise MalformedError("has bytes before the zip archive, which would be lost")
    return starts


def _data_start(file: InputFile, info: zipfile.ZipInfo) -> int:
    header = file.read(info.header_offset, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise MalformedError(f"member '{escape_name(info.filename)}': is not where the directory says; damaged archive")
    fields = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(fields[-2]) + int(fields[-1])


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, start: int, shard: str, void_dtype: str | None
) -> ZipMember:
    """Unpack the beginning of a member and parse the array header."""
    if info.is_dir() and not info.file_size:
        return ZipMember(info=info, start=start, header=b"", tensor=None)
    shown = escape_name(info.filename)
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise MalformedError(f"member '{shown}': is stored, yet its two sizes differ")
    with zip_errors(f"member '{shown}'"), archive.open(info) as stream:
        prefix = stream.read(PREFIX_BYTES)
    key = info.filename.removesuffix(".npy")
    try:
        if key != info.filename or prefix.startswith(MAGIC):
            tensor = parse_npy(prefix, info.file_size, name=key, shard=shard, void_dtype=void_dtype)
        else:
            tensor = _opaque(info, key, shard, BYTE)
    except ObjectArrayError:
        tensor = _opaque(info, key, shard, OBJECT)
    except MalformedError as error:
        raise MalformedError(f"member '{shown}': {error}") from error
    return ZipMember(info=info, start=start, header=prefix[: tensor.start], tensor=tensor)


def _opaque(info: zipfile.ZipInfo, name: str, shard: str, dtype: str) -> TensorInfo:
    """Describe the whole member as opaque bytes to copy."""
    shape = (info.file_size,)
    return TensorInfo(name=name, dtype=DType(name=dtype, bits=8), shape=shape, shard=shard, start=0, nbytes=shape[0])
