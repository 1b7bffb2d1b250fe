"""The protocols of a checkpoint and of what is written in its place, and how a path becomes one.

To add a file format: a module with an `open_*` function that returns a `Shard`, and a line in `FORMATS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from qdqcli.tensors.tensor import TensorInfo


class ShardReader(Protocol):
    """An opened shard. Reads are positional and may come from several threads at once.

    1. A read fills the whole buffer or raises `InputError` that names the file.
    2. `close` compares size and modification time with those at opening: a file that changed is an `InputError`.
    3. Nothing is mapped: a file cut short while it is read is an error, never a signal.
    """

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from `start` (relative to its first byte) on."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class ShardWriter(Protocol):
    """The output file that takes the place of one shard: same header, same layout, same size (`.npz`: same members).

    1. What is not written with `write` must have been copied with `copy` before `commit`.
    2. The file has its final name within the output only after `commit`, which flushes it to the disk first.
    3. `abort` leaves nothing behind. A failed write is an `OutputError` that names the path.
    """

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        """Write bytes of the tensor at `start`; positional, from several threads at once."""

    def copy(self, tensor: TensorInfo) -> None:
        """Copy the tensor byte for byte from the input."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...


class Shard(Protocol):
    """One file of a checkpoint whose header was read and found valid; no descriptor is held."""

    path: Path
    name: str
    """Relative to the checkpoint, with forward slashes."""
    tensors: Sequence[TensorInfo]
    """In the order of the data in the file."""

    def open(self) -> ShardReader: ...

    def create(self, path: Path, reader: ShardReader) -> ShardWriter:
        """Begin the file that replaces this shard at `path`, whose folder exists."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One input: a file with tensors, or a folder of such files."""

    path: Path
    is_folder: bool
    shards: Sequence[Shard]
    """In the order of their names; a single file has one, whose name is the file's."""
    side_files: Sequence[Path] = ()
    """Everything else in the folder (config, tokenizer, the index), relative to it; copied as it is."""
    notes: Sequence[str] = ()
    """What a user should know of the input, for stderr: a shard that the index does not name, say."""

    @property
    def tensors(self) -> Iterator[TensorInfo]:
        for shard in self.shards:
            yield from shard.tensors


FORMATS = {
    ".safetensors": "qdqcli.tensors.safetensors:open_safetensors",
    ".npy": "qdqcli.tensors.npy:open_npy",
    ".npz": "qdqcli.tensors.npz:open_npz",
}
"""File suffix -> the function that opens one file of that format as a `Shard`."""


def open_checkpoint(path: Path, *, void_dtype: str | None = None) -> Checkpoint:
    """Read the headers of the file or folder at `path`, all of them before any data.

    Args:
        void_dtype: safetensors name of the dtype that `.npy` elements of an unnamed kind (`|V2`) have.

    Raises:
        InputError: missing, unreadable or malformed; names the file.
    """
    raise NotImplementedError


def expand_inputs(arguments: Sequence[str]) -> list[Path]:
    """The paths that INPUT arguments name: a path as it is, a quoted glob as its sorted matches.

    Raises:
        InputError: a glob that matches nothing, a URL without the extra that reads it.
    """
    raise NotImplementedError
