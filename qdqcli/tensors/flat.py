"""Files that store tensors uncompressed behind one header: `.safetensors` and `.npy`.

The output keeps the input's header bytes and tensor offsets, so metadata, order and alignment are preserved by
construction, the size is known before the first byte, and threads may write in any order.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qdqcli.tensors.checkpoint import ShardReader, Waiting
from qdqcli.tensors.input_file import FileIdentity, InputFile
from qdqcli.tensors.output_file import OutputFile
from qdqcli.tensors.tensor import TensorInfo, span_error


@dataclass(frozen=True, kw_only=True)
class FlatShard:
    """A `Shard` whose `TensorInfo.start` is an offset in the file itself."""

    path: Path
    name: str
    tensors: tuple[TensorInfo, ...]
    header_bytes: int
    """Number of bytes before the data."""
    identity: FileIdentity
    """Identity of the file whose header was read."""
    marks: frozenset[str] = frozenset()
    """Metadata keys that mark packed weights."""

    @property
    def output_name(self) -> str:
        return self.name

    @property
    def output_bytes(self) -> int:
        return self.identity.size

    @contextmanager
    def open(self) -> Iterator["FlatReader"]:
        with InputFile(self.path, expected=self.identity) as file:
            yield FlatReader(file)

    def header_digest(self) -> str:
        with InputFile(self.path, expected=self.identity) as file:
            return hashlib.sha256(file.read(0, self.header_bytes)).hexdigest()

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> "FlatWriter":
        if not isinstance(reader, FlatReader):
            raise TypeError(f"a reader that this shard opened is needed, not {type(reader).__name__}")
        file = reader.file
        return FlatWriter(path, file.chunks(0, self.header_bytes), file.size, file.mode, unfinished)


@dataclass(frozen=True)
class FlatReader:
    """Reads tensors at their offset in the file."""

    file: InputFile

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        if not 0 <= start <= tensor.nbytes - buffer.nbytes:
            raise span_error(tensor, start, buffer.nbytes)
        self.file.read_into(buffer, tensor.start + start)

    def read_batch(self, first: TensorInfo, buffer: memoryview) -> bool:
        self.file.read_into(buffer, first.start)
        return True

    def read_ahead(self, tensors: Iterable[TensorInfo], max_bytes: int) -> None:
        self.file.read_ahead(((tensor.start, tensor.start + tensor.nbytes) for tensor in tensors), max_bytes)


class FlatWriter:
    """Writes a file of `size` bytes: a header, and the tensors at their offsets in the file."""

    def __init__(
        self, path: Path, header: Iterable[bytes | memoryview], size: int, mode: int, unfinished: str | None
    ) -> None:
        self._size = size
        self._file = OutputFile(path, unfinished, mode=mode)
        with ExitStack() as undo:
            undo.callback(self._file.suspend if unfinished else self._file.abort)
            self._file.resize(size)
            self._file.write_all(header)
            undo.pop_all()
        self.commit, self.suspend, self.abort = self._file.commit, self._file.suspend, self._file.abort

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        if not 0 <= start <= tensor.nbytes - data.nbytes:
            raise span_error(tensor, start, data.nbytes)
        self._file.write(data, tensor.start + start)

    def write_batch(self, first: TensorInfo, data: memoryview) -> bool:
        self._file.write(data, first.start)
        return True

    def sync(self) -> Waiting | None:
        name = self._file.sync()
        return None if name is None else Waiting(name=name, size=self._size)
