"""Strict reader of `.gguf` files, versions 2 and 3: tensors under their Hugging Face names, rows in their order there.

The header is read without the package `gguf`, whose reader maps the file into memory: here a file that is truncated
while it is read is an error, never a signal. The package decodes the blocks, see `packed/gguf.py`. Source: ggml's
`gguf.md` and `gguf.cpp`.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from qdqcli.errors import UsageError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import ShardReader
from qdqcli.tensors.flat import FlatReader, FlatShard
from qdqcli.tensors.gguf_names import Model, model_of, names_of
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.packed.storage import CodeGrid, Scales, Values
from qdqcli.tensors.safetensors import DAMAGED, bad_tensor
from qdqcli.tensors.signature import describe
from qdqcli.tensors.tensor import DTYPES, DType, TensorInfo, span_error

MAX_HEADER_BYTES = 256 << 20
"""Limit on the header; vocabularies of 260,000 tokens with merges take 12 MB."""
MAX_DIMENSIONS = 4
_READ_BYTES = 1 << 20


class GgmlType(NamedTuple):
    """A ggml type."""

    name: str
    elements: int
    """Elements of one block."""
    nbytes: int
    """Bytes of one block."""
    grid: CodeGrid | None = None
    """Codes of a quantized type, and the elements that share a scale."""


def _codes(name: str, elements: int, nbytes: int, bits: int, group: int, *, has_minimum: bool = False) -> GgmlType:
    return GgmlType(name, elements, nbytes, CodeGrid(bits, (1, group), is_symmetric=not has_minimum))


def _book(name: str, elements: int, nbytes: int, bits: int, group: int) -> GgmlType:
    return GgmlType(name, elements, nbytes, CodeGrid(bits, (1, group), Values.OTHERS))


KINDS: Mapping[int, GgmlType] = {
    0: GgmlType("F32", 1, 4), 1: GgmlType("F16", 1, 2), 30: GgmlType("BF16", 1, 2), 28: GgmlType("F64", 1, 8),
    24: GgmlType("I8", 1, 1), 25: GgmlType("I16", 1, 2), 26: GgmlType("I32", 1, 4), 27: GgmlType("I64", 1, 8),
    2: _codes("Q4_0", 32, 18, 4, 32),
    3: _codes("Q4_1", 32, 20, 4, 32, has_minimum=True),
    6: _codes("Q5_0", 32, 22, 5, 32),
    7: _codes("Q5_1", 32, 24, 5, 32, has_minimum=True),
    8: _codes("Q8_0", 32, 34, 8, 32),
    9: _codes("Q8_1", 32, 40, 8, 32),
    10: _codes("Q2_K", 256, 84, 2, 16, has_minimum=True),
    11: _codes("Q3_K", 256, 110, 3, 16),
    12: _codes("Q4_K", 256, 144, 4, 32, has_minimum=True),
    13: _codes("Q5_K", 256, 176, 5, 32, has_minimum=True),
    14: _codes("Q6_K", 256, 210, 6, 16),
    15: _codes("Q8_K", 256, 292, 8, 256),
    16: _book("IQ2_XXS", 256, 66, 2, 32), 17: _book("IQ2_XS", 256, 74, 2, 16), 22: _book("IQ2_S", 256, 82, 2, 16),
    18: _book("IQ3_XXS", 256, 98, 3, 32), 21: _book("IQ3_S", 256, 110, 3, 32),
    19: _book("IQ1_S", 256, 50, 1, 32), 29: _book("IQ1_M", 256, 56, 1, 16),
    20: _book("IQ4_NL", 32, 18, 4, 32), 23: _book("IQ4_XS", 256, 136, 4, 32),
    34: _book("TQ1_0", 256, 54, 2, 256), 35: _book("TQ2_0", 256, 66, 2, 256),
    39: GgmlType("MXFP4", 32, 17, CodeGrid(4, (1, 32), Values.E2M1, Scales.E8M0)),
    40: GgmlType("NVFP4", 64, 36, CodeGrid(4, (1, 16), Values.E2M1, Scales.E4M3)),
    41: _book("Q1_0", 128, 18, 1, 128),
}  # fmt: skip
"""Number in a file -> type."""

QUANTIZED: Mapping[str, GgmlType] = {kind.name: kind for kind in KINDS.values() if kind.grid is not None}
_DTYPES = {
    kind.name: DTYPES[kind.name] if kind.grid is None else DType(name=kind.name, bits=kind.grid.bits, is_block=True)
    for kind in KINDS.values()
}


def open_gguf(path: Path, name: str, void_dtype: str | None = None) -> "GgufShard":
    """Read and check the header of a `.gguf` file.

    `name` is the file's name relative to its checkpoint; `void_dtype` is ignored: this format names every type.

    Raises:
        InputError: unreadable.
        MalformedError: the header violates the format.
    """
    del void_dtype
    with InputFile(path) as file:
        header = _Header(file)
        model = Model.of(header.values) if "general.architecture" in header.values else _model_beside(path)
        start = header.data_start
        tensors: list[TensorInfo] = []
        layouts: dict[str, _Layout] = {}
        for stored in header.tensors:
            for found in names_of(stored.name, stored.shape, model):
                size = stored.nbytes // found.parts
                if found.heads and size % found.shape[0]:
                    raise bad_tensor(stored.name, f"its rows in order of heads are no blocks of {stored.kind.name}")
                begin = start + stored.offset + found.part * size
                tensors.append(TensorInfo(found.name, _DTYPES[stored.kind.name], found.shape, name, begin, size))
                layouts[found.name] = _Layout(found.heads, found.added if stored.kind.name == "F32" else 0.0)
        if len(layouts) < len(tensors):
            raise MalformedError(f"two of its tensors have one name; {DAMAGED}")
        return GgufShard(
            path=path,
            name=name,
            tensors=tuple(sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes))),
            header_bytes=start,
            identity=file.identity,
            layouts={key: layout for key, layout in layouts.items() if layout != _Layout()},
        )


def _model_beside(path: Path) -> Model:
    """Return the model that the first of several files describes, for one of the others."""
    first = path.with_name(model_of(path.name))
    if first == path:
        return Model.of({})
    with InputFile(first) as file, blame(first):
        return Model.of(_Header(file).values)


# ------------------------------------------------------------------ header


class _Stored(NamedTuple):
    """A tensor as the header describes it."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    """In C order: the reverse of that in the file."""
    offset: int
    nbytes: int


_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Number of a metadata type -> format of `struct`."""
_STRING, _ARRAY = 8, 9
_KEPT_ITEMS = 4096
"""Items of an array that are kept: a number per layer, not a vocabulary."""


class _Header:
    """Metadata and tensors of a file."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._buffer, self._begin, self._at = b"", 0, 0
        self._check_magic()
        tensors, entries = self._number("Q"), self._number("Q")
        self.values: dict[str, Any] = {}
        """Metadata; arrays of strings, and long ones, are None."""
        for _ in range(entries):
            key = self._text()
            if key in self.values:
                raise MalformedError(f"header holds the key '{escape_name(key)}' twice; {DAMAGED}")
            self.values[key] = self._value(self._number("I"))
        alignment = self.values.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise MalformedError(f"general.alignment is {alignment!r}, not a power of two; {DAMAGED}")
        self.tensors = [self._tensor(alignment) for _ in range(tensors)]
        self.data_start = -(-self._at // alignment) * alignment
        self._check_layout()

    def _check_magic(self) -> None:
        first = self._file.read(0, 512)
        if first[:4] != b"GGUF":
            hint = describe(first, expected="a GGUF file")
            raise MalformedError(hint.removeprefix("it ") if hint else f"is not a GGUF file: begins with {first[:4]!r}")
        self._take(4)
        version = self._number("I")
        if version & 0xFFFF == 0:
            raise MalformedError("is big-endian; convert it: gguf-convert-endian FILE little")
        if version not in (2, 3):
            raise MalformedError(f"is of version {version} of the format; 2 and 3 are read")

    def _take(self, length: int) -> bytes:
        """Return the next bytes."""
        end = self._at + length
        if end > min(self._file.size, MAX_HEADER_BYTES):
            limit = "the file has" if end > self._file.size else "at most are read"
            raise MalformedError(
                f"its header goes on beyond byte {end}, {limit} {min(self._file.size, MAX_HEADER_BYTES)}; the download "
                "may be incomplete"
            )
        if not self._begin <= self._at <= end <= self._begin + len(self._buffer):
            self._begin, self._buffer = self._at, self._file.read(self._at, max(length, _READ_BYTES))
        found = self._buffer[self._at - self._begin : end - self._begin]
        self._at = end
        return found

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))
        return value

    def _text(self) -> str:
        return self._take(self._number("Q")).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY or depth > 3:
            raise MalformedError(f"a value of its metadata has type {kind}, which is none of the format; {DAMAGED}")
        of, count = self._number("I"), self._number("Q")
        if of in _NUMBERS:
            data = self._take(count * struct.calcsize(f"<{_NUMBERS[of]}"))
            return list(struct.unpack(f"<{count}{_NUMBERS[of]}", data)) if count <= _KEPT_ITEMS else None
        for _ in range(count):
            self._take(self._number("Q")) if of == _STRING else self._value(of, depth + 1)
        return None

    def _tensor(self, alignment: int) -> _Stored:
        name = self._text()
        dimensions = self._number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise bad_tensor(name, f"has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
        sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        number, offset = self._number("I"), self._number("Q")
        kind = KINDS.get(number)
        if kind is None:
            raise bad_tensor(name, f"type {number} is none that this version knows")
        if 0 in sizes or prod(sizes) >= 1 << 63:
            raise bad_tensor(name, f"its shape is {list(sizes)}")
        if sizes[0] % kind.elements:
            raise bad_tensor(name, f"rows of {sizes[0]} elements are not whole blocks of {kind.name}, {kind.elements}")
        if offset % alignment:
            raise bad_tensor(name, f"begins at byte {offset}, which {alignment} does not divide")
        return _Stored(name, kind, sizes[::-1], offset, prod(sizes) // kind.elements * kind.nbytes)

    def _check_layout(self) -> None:
        """Check that tensors lie in the file and do not overlap."""
        end = 0
        for tensor in sorted(self.tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                raise bad_tensor(tensor.name, f"begins at byte {tensor.offset}, within the tensor before it")
            end = tensor.offset + tensor.nbytes
            if self.data_start + end > self._file.size:
                raise MalformedError(
                    f"tensor '{escape_name(tensor.name)}' ends at byte {self.data_start + end} but the file has "
                    f"{self._file.size}; the download may be incomplete"
                )


# ------------------------------------------------------------------ data


class _Layout(NamedTuple):
    """Difference from the order and the values of a Hugging Face checkpoint."""

    heads: int = 0
    """Heads whose rows are interleaved: first and second half of a head in turn; 0 where they are not."""
    added: float = 0.0
    """Number that was added to each element."""


@dataclass(frozen=True, kw_only=True)
class GgufShard(FlatShard):
    """A GGUF file; it is read, and decoded to a safetensors file, but never written."""

    layouts: Mapping[str, _Layout]

    @contextmanager
    def open(self) -> Iterator["GgufReader"]:
        with InputFile(self.path, expected=self.identity) as file:
            yield GgufReader(file, self.layouts)

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> Any:
        del path, reader, unfinished
        raise UsageError(
            f"{show_path(self.path)}: GGUF files are not written; 'qdq decode' makes a .safetensors file of it first"
        )


class GgufReader(FlatReader):
    """Reads tensors as a Hugging Face checkpoint has them."""

    def __init__(self, file: InputFile, layouts: Mapping[str, _Layout]) -> None:
        super().__init__(file)
        self._layouts = layouts

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        layout = self._layouts.get(tensor.name)
        if layout is None:
            super().read_into(tensor, start, buffer)
        elif layout.heads:
            if not 0 <= start <= tensor.nbytes - buffer.nbytes:
                raise span_error(tensor, start, buffer.nbytes)
            self._read_heads(tensor, layout.heads, start, buffer)
        else:
            super().read_into(tensor, start, buffer)
            _subtract(buffer, layout.added)

    def read_batch(self, first: TensorInfo, buffer: memoryview) -> bool:
        return not self._layouts and super().read_batch(first, buffer)

    def _read_heads(self, tensor: TensorInfo, heads: int, start: int, buffer: memoryview) -> None:
        """Read a head at a time and put its even rows before its odd ones."""
        out = buffer.cast("B")
        size, rows = tensor.nbytes // heads, tensor.shape[0] // heads
        row = size // rows
        stored = bytearray(size)
        for head in range(start // size, -(-(start + len(out)) // size)):
            self.file.read_into(memoryview(stored), tensor.start + head * size)
            pieces = [stored[at * row : (at + 1) * row] for at in (*range(0, rows, 2), *range(1, rows, 2))]
            ordered = b"".join(pieces)
            at = head * size - start
            first, last = max(at, 0), min(at + size, len(out))
            out[first:last] = ordered[first - at : last - at]


def _subtract(buffer: memoryview, added: float) -> None:
    values = buffer.cast("B").cast("f")
    for index, value in enumerate(values):
        values[index] = value - added
