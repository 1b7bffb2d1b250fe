"""Strict reader of `.safetensors` headers, and their writer.

Source: the format specification and safetensors 0.8, `tensor.rs`. Stricter than the library where it violates the
specification: no duplicate keys, a tensor's record is an object, a dtype is a string. Limits: a header of 32 MiB
instead of 100 MB, 64 dimensions.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from operator import attrgetter
from pathlib import Path

from qdqcli.escape import MalformedError, escape_name
from qdqcli.tensors.flat import FlatShard
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.json_stream import WINDOW_BYTES, JsonStream
from qdqcli.tensors.signature import SNIFF_BYTES, describe
from qdqcli.tensors.strict_json import decoder, levels, object_of
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
        first = file.read(0, SNIFF_BYTES)
        length = int.from_bytes(first[:8], "little")
        if not 0 < length <= min(file.size - 8, MAX_HEADER_BYTES):
            raise _bad_length(file, first, length)
        tensors, marks = _parse_header(file, length, name)
        _check_layout(tensors, 8 + length, file.size)
        return FlatShard(
            path=path,
            name=name,
            tensors=tensors,
            header_bytes=8 + length,
            identity=file.identity,
            marks=marks,
        )


def _bad_length(file: InputFile, first: bytes, length: int) -> MalformedError:
    """Return the error on the length of the header; `first` are the file's first bytes."""
    if file.size < 8:
        what = f"has {file.size} bytes, too few for a .safetensors file"
    elif length > file.size - 8:
        what = f"says that its header has {length} bytes but the file has {file.size}"
    else:
        what = f"has a header of {length} bytes" + (f", at most {MAX_HEADER_BYTES} are read" if length else "")
    found = describe(first, expected="a .safetensors file")
    if found is None:
        return MalformedError(f"{what}; the download may be incomplete, or it is another kind of file")
    return MalformedError(f"{found.removeprefix('it ')} ({what})")


def header_of(records: Mapping[str, object]) -> bytes:
    """Return the first bytes of a file with these records, padded so that the data is aligned."""
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _parse_header(file: InputFile, length: int, shard: str) -> tuple[tuple[TensorInfo, ...], frozenset[str]]:
    """Parse a header of `length` bytes into its tensors, in data order, and the `MARKS` in its metadata.

    A short one is parsed in one call, in half of the time. A stream takes a third less memory for a long one.
    """
    records: Iterable[tuple[str, object]] | None = None
    if length <= WINDOW_BYTES:
        with suppress(ValueError, RecursionError, MalformedError):  # `_stream` tells where the fault is
            text = file.read(8, length).decode("utf-8")
            records = decoder(text, tuple).decode(text)
    if not isinstance(records, tuple):
        records = _stream(file, length)
    tensors: dict[str, TensorInfo] = {}
    marks: frozenset[str] = frozenset()
    has_metadata = False
    for name, record in records:
        if name in tensors or (has_metadata and name == METADATA):
            raise MalformedError(f"header holds the key '{escape_name(name)}' twice; {DAMAGED}")
        if name == METADATA:
            has_metadata = True
            marks = _marks_of(record)
        else:
            tensors[name] = _parse_record(name, record, shard, 8 + length)
    return tuple(sorted(tensors.values(), key=attrgetter("start", "nbytes"))), marks


def _stream(file: InputFile, length: int) -> Iterator[tuple[str, object]]:
    """Yield name and record of each tensor and of the metadata; objects as tuples of pairs."""
    with _in_header():
        stream = JsonStream(file.chunks(8, length), tuple)
        for name in stream.members():
            yield name, stream.value()
        stream.end()


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
    if len(record) != 3 or len(fields) != 3:
        if 1 + levels(record) > MAX_LEVELS:
            raise bad_tensor(name, f"its record is nested deeper than {MAX_LEVELS} levels")
        with _in_header():
            fields = object_of(record)
    spelling = fields.get("dtype")
    dtype = DTYPES.get(spelling) if isinstance(spelling, str) else None
    if dtype is None:
        found = f"dtype {_shown(spelling)} is not one of the format" if "dtype" in fields else "no dtype"
        raise bad_tensor(name, found)
    for field in ("shape", "data_offsets"):
        values = fields.get(field)
        if not isinstance(values, list):
            raise bad_tensor(name, f"{field} is not a list" if field in fields else f"no {field}")
        for value in values:
            if type(value) is not int or not 0 <= value < _U64:  # `type`: True is an int
                raise bad_tensor(name, f"{field} holds {_shown(value)}, not an integer from 0 to 2^64-1")
        if field == "shape" and len(values) > MAX_DIMENSIONS:
            raise bad_tensor(name, f"has {len(values)} dimensions, at most {MAX_DIMENSIONS} are read")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad_tensor(name, "data_offsets are not a begin and an end")
    begin, end = offsets
    nbytes = end - begin
    if prod(shape, start=dtype.bits) != 8 * nbytes or not 0 < nbytes < _U64 // 8:
        _check_size(name, dtype, shape, nbytes)
    return TensorInfo(name, dtype, tuple(shape), shard, data_start + begin, nbytes)


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
