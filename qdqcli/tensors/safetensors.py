"""Strict reader of `.safetensors` headers, and their writer.

Source: the format specification and safetensors 0.8, `tensor.rs`. Stricter than the library where it violates the
specification: no duplicate keys, a tensor's record is an object, a dtype is a string. Limits: a header of 32 MiB
instead of 100 MB, 64 dimensions.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from operator import attrgetter
from pathlib import Path

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.flat import FlatShard
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.json_stream import JsonStream
from qdqcli.tensors.signature import SNIFF_BYTES, describe
from qdqcli.tensors.strict_json import levels, object_of
from qdqcli.tensors.tensor import DTYPES, DType, TensorInfo

MAX_HEADER_BYTES = 32 << 20
"""Limit on the header: 32 MiB describe half a million tensors; parsing the format's 100 MB took 10 s and 1.2 GB."""

MAX_LEVELS = 127
"""Maximum nesting of lists and objects, as in the library; only unknown fields can nest that deeply."""

MAX_DIMENSIONS = 64
"""Maximum number of dimensions, as in NumPy."""

METADATA = "__metadata__"
MARKS = frozenset({"_quantization_metadata"})
"""Metadata keys that mark packed weights: ComfyUI's."""
_FIELDS = ("dtype", "shape", "data_offsets")
_U64 = 1 << 64
DAMAGED = "the file is damaged or was written by a faulty tool"


def open_safetensors(path: Path, name: str, void_dtype: str | None = None) -> FlatShard:
    """Read and check the header of a `.safetensors` file.

    `name` is the file's name relative to its checkpoint; `void_dtype` is ignored: this format names every dtype.

    Raises:
        InputError: unreadable.
        MalformedError: the header violates the format or the stricter rules above.
    """
    del void_dtype
    with InputFile(path) as file:
        length = _header_bytes(file)
        data_start = 8 + length
        tensors, marks = parse_header(file.chunks(8, length), name, data_start)
        _check_layout(tensors, data_start, file.size)
        return FlatShard(
            path=path,
            name=name,
            tensors=tensors,
            header_bytes=data_start,
            identity=file.identity,
            marks=marks,
        )


def _header_bytes(file: InputFile) -> int:
    """Return the length of the JSON header."""
    first = file.read(0, SNIFF_BYTES)
    if len(first) < 8:
        raise MalformedError(_with_hint(f"has {file.size} bytes, too few for a .safetensors file", first))
    (length,) = struct.unpack_from("<Q", first)
    if length > file.size - 8:
        message = f"says that its header has {length} bytes but the file has {file.size}"
        raise MalformedError(_with_hint(message, first))
    if length > MAX_HEADER_BYTES:
        raise MalformedError(_with_hint(f"has a header of {length} bytes, at most {MAX_HEADER_BYTES} are read", first))
    if length == 0:
        raise MalformedError(_with_hint("has a header of 0 bytes", first))
    return int(length)


def _with_hint(message: str, first: bytes) -> str:
    found = describe(first, expected="a .safetensors file")
    if found is None:
        return f"{message}; the download may be incomplete, or it is another kind of file"
    return f"{found.removeprefix('it ')} ({message})"


def header_of(records: Mapping[str, object]) -> bytes:
    """Return the first bytes of a file with these records, padded so that the data is aligned."""
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def parse_header(
    pieces: Iterable[bytes | memoryview], shard: str, data_start: int
) -> tuple[tuple[TensorInfo, ...], frozenset[str]]:
    """Parse a header into its tensors, in data order, and the `MARKS` in its metadata."""
    tensors: dict[str, TensorInfo] = {}
    marks: frozenset[str] = frozenset()
    has_metadata = False
    for name, record in _records(pieces):
        if name in tensors or (has_metadata and name == METADATA):
            raise MalformedError(f"header holds the key '{escape_name(name)}' twice; {DAMAGED}")
        if name == METADATA:
            has_metadata = True
            marks = _marks_of(record)
        else:
            tensors[name] = _parse_record(name, record, shard, data_start)
    return tuple(sorted(tensors.values(), key=attrgetter("start", "nbytes"))), marks


def _records(pieces: Iterable[bytes | memoryview]) -> Iterator[tuple[str, object]]:
    """Yield name and record of each tensor and of the metadata; objects as tuples of pairs."""
    with _in_header():
        yield from JsonStream(pieces, tuple).pairs()


@contextmanager
def _in_header() -> Iterator[None]:
    """Prefix JSON errors with the header's context."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(f"header {error}; {DAMAGED}") from error


def _marks_of(metadata: object) -> frozenset[str]:
    """Check the metadata and return the `MARKS` in it."""
    if metadata is None:
        return frozenset()
    if not isinstance(metadata, tuple) or not all(isinstance(value, str) for _, value in metadata):
        raise MalformedError(f"header: __metadata__ is not an object of strings; {DAMAGED}")
    with _in_header():
        return MARKS & object_of(metadata).keys()


def _parse_record(name: str, record: object, shard: str, data_start: int) -> TensorInfo:
    if not isinstance(record, tuple):
        raise bad_tensor(name, "its record is not a JSON object")
    fields = dict(record)
    if len(record) != len(_FIELDS) or len(fields) != len(_FIELDS):
        if 1 + levels(record) > MAX_LEVELS:
            raise bad_tensor(name, f"its record is nested deeper than {MAX_LEVELS} levels")
        with _in_header():
            fields = object_of(record)
    spelling = fields.get("dtype")
    dtype = DTYPES.get(spelling) if isinstance(spelling, str) else None
    if dtype is None:
        found = f"dtype {_shown(spelling)} is not one of the format" if "dtype" in fields else "no dtype"
        raise bad_tensor(name, found)
    shape = _parse_sizes(name, fields, "shape")
    if len(shape) > MAX_DIMENSIONS:
        raise bad_tensor(name, f"has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are read")
    offsets = _parse_sizes(name, fields, "data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad_tensor(name, "data_offsets are not a begin and an end")
    begin, end = offsets
    nbytes = end - begin
    if prod(shape, start=dtype.bits) != 8 * nbytes or not 0 < nbytes < _U64 // 8:
        _check_size(name, dtype, shape, nbytes)
    return TensorInfo(name, dtype, tuple(shape), shard, data_start + begin, nbytes)


def _parse_sizes(name: str, fields: dict[str, object], field: str) -> list[int]:
    values = fields.get(field)
    if not isinstance(values, list):
        raise bad_tensor(name, f"{field} is not a list" if field in fields else f"no {field}")
    for value in values:
        if type(value) is not int or not 0 <= value < _U64:  # `type`: True is an int
            raise bad_tensor(name, f"{field} holds {_shown(value)}, not an integer from 0 to 2^64-1")
    return values


def _shown(value: object) -> str:
    """Format a value for a message; pairs are shown as an object unless nested too deeply."""
    whole = object_of(value) if isinstance(value, tuple) and levels(value) <= MAX_LEVELS else value
    return escape_name(repr(whole), 40)


def _check_size(name: str, dtype: DType, shape: Iterable[int], nbytes: int) -> None:
    """Check that shape and dtype need `nbytes`; intermediate products must fit in 64 bits, as in the reference."""
    bits = 1
    for size in (*shape, dtype.bits):
        bits *= size
        if bits >= _U64:
            raise bad_tensor(name, "its size does not fit in 64 bits")
    if bits % 8:
        raise bad_tensor(name, f"{bits} bits of {dtype.name} do not fill whole bytes")
    if bits // 8 != nbytes:
        raise bad_tensor(name, f"shape and dtype need {bits // 8} bytes but data_offsets give {nbytes}")


def _check_layout(tensors: Iterable[TensorInfo], data_start: int, file_size: int) -> None:
    """Check that the data has no hole or overlap and ends where the file ends."""
    end = data_start
    for tensor in tensors:
        if tensor.start != end:
            what = "overlaps the tensor before it" if tensor.start < end else "leaves a hole before it"
            raise bad_tensor(tensor.name, f"begins at byte {tensor.start} but {end} was expected: it {what}")
        end += tensor.nbytes
    if end != file_size:
        what = "the download may be incomplete" if file_size < end else "bytes that no tensor owns are not copied"
        raise MalformedError(f"its tensors end at byte {end} but the file has {file_size}; {what}")


def bad_tensor(name: str, what: str) -> MalformedError:
    """Return the error on the record of a tensor."""
    return MalformedError(f"tensor '{escape_name(name)}': {what}; {DAMAGED}")
