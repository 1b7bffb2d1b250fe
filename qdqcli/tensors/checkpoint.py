"""The protocols of a checkpoint and of what is written in its place, and how a path becomes one.

To add a file format: a module with an `open_*` function that returns a `Shard`, and a line in `FORMATS`.
"""

import glob
import importlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from qdqcli.errors import InputError, UnavailableError, UsageError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.root import CheckpointRoot
from qdqcli.tensors.signature import SNIFF_BYTES, describe, is_pointer
from qdqcli.tensors.storage import FileIdentity, InputFile, input_error
from qdqcli.tensors.tensor import DTYPES, TensorInfo
from qdqcli.tensors.unread import describe_unread


class Place(NamedTuple):
    """Where the bytes of a tensor lie as they are, for kernels that read and write for themselves."""

    descriptor: int
    """Of an ordinary file, open as long as its reader or writer is."""
    offset: int
    """The tensor's first byte in the file."""
    path: Path
    """For messages."""


class Waiting(NamedTuple):
    """A file that is not finished and waits for a later process to go on."""

    name: str
    """In the folder of the file that it becomes."""
    size: int
    """In bytes."""


class ShardReader(Protocol):
    """An opened shard. Reads are positional and may come from several threads at once.

    1. A read fills the whole buffer or raises `InputError` that names the file.
    2. `close` compares size and modification time with those at opening: a file that changed is an `InputError`.
    3. Nothing is mapped: a file cut short while it is read is an error, never a signal.
    """

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer`, contiguous and of a native type, with the tensor's bytes from `start` (in the tensor) on."""

    def place(self, tensor: TensorInfo) -> Place | None:
        """Where the tensor may be read without this reader; None where only `read_into` knows how."""

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
    4. What `sync` flushed is still there after `suspend` or a kill, for `Shard.create` to go on with.
    """

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        """Write bytes of the tensor at `start`; positional, from several threads at once."""

    def copy(self, tensor: TensorInfo, on_chunk: Callable[[], None] = ...) -> None:
        """Copy the tensor byte for byte from the input; `on_chunk` is called before each piece and may raise."""

    def place(self, tensor: TensorInfo) -> Place | None:
        """Where the tensor may be written without this writer; None where only `write` knows how."""

    def sync(self) -> Waiting | None:
        """Flush to the disk what was written so far; the file in which it waits, None where it cannot wait."""

    def commit(self) -> None: ...

    def suspend(self) -> None: ...

    def abort(self) -> None: ...


class Shard(Protocol):
    """One file of a checkpoint whose header was read and found valid; no descriptor is held."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str:
        """Relative to the checkpoint, with forward slashes."""

    @property
    def tensors(self) -> Sequence[TensorInfo]:
        """In the order of the data in the file."""

    @property
    def identity(self) -> FileIdentity:
        """Size, modification time and inode of the file whose header was read; `open` wants the same."""

    @property
    def marks(self) -> frozenset[str]:
        """What the file itself, beside its tensors, says of packed weights: keys of its metadata."""

    @property
    def output_bytes(self) -> int:
        """Disk space that writing the output takes, temporaries included."""

    def open(self) -> ShardReader: ...

    def header_digest(self) -> str:
        """A hash of what the file says of its tensors."""

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> ShardWriter:
        """Begin the file that replaces this shard at `path`, whose folder exists; or go on with the `unfinished`."""


@dataclass(frozen=True, kw_only=True)
class SideFile:
    """A file of a checkpoint's folder that is no shard."""

    folder: Path
    """The checkpoint's."""
    name: Path
    """Relative to the folder."""
    follow_links: bool = False
    """Whether links may lead out of the folder."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def open(self) -> InputFile:
        """Open what the name leads to now.

        Raises:
            InputError: it is not there, is no regular file, or lies behind a link that leaves the folder.
        """
        with CheckpointRoot(self.folder, follow_links=self.follow_links) as root:
            found = root.look_up(str(self.name))
            return InputFile(self.path, expected=FileIdentity.of(found.status))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One input: a file with tensors, or a folder of such files."""

    path: Path
    is_folder: bool
    shards: Sequence[Shard]
    """In the order of their names; a single file has one, whose name is the file's."""
    side_files: Sequence[SideFile] = ()
    """Everything else in the folder (config, tokenizer, the index); copied as it is."""
    notes: Sequence[Note] = ()
    """What a user should know of the input: a shard that the index does not name, say."""
    superseded: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(shard, tensor) -> the shard whose tensor of that name counts, by the index: loaders ignore the one here."""

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


def open_checkpoint(path: Path, *, void_dtype: str | None = None, follow_links: bool = False) -> Checkpoint:
    """Read the headers of the file or folder at `path`, all of them before any data.

    `void_dtype` is the safetensors name of the dtype that `.npy` elements of an unnamed kind (`|V2`) have, and integers
    of its size. With `follow_links` links in a folder may lead out of it; `path` itself may be a link.

    Raises:
        InputError: missing, unreadable or malformed, or a link that leaves the folder; names the file.
        UsageError: `void_dtype` is not a dtype's name.
    """
    if void_dtype is not None and void_dtype not in DTYPES:
        raise UsageError(f"dtype '{escape_name(void_dtype)}' is not one of {', '.join(DTYPES)}")
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise input_error(path, error) from error
    if is_folder:
        # Imported late: it builds on the protocols of this file.
        from qdqcli.tensors.sharded import open_folder

        return open_folder(path, void_dtype, follow_links=follow_links)
    shard = open_file(path, path.name, void_dtype)
    return Checkpoint(path=path, is_folder=False, shards=(shard,), notes=tuple(void_notes(shard)))


def open_file(path: Path, name: str, void_dtype: str | None = None) -> Shard:
    """Read the header of one file by the format that its suffix (in any letter case) names.

    `name` is the file's name relative to its checkpoint.

    Raises:
        InputError: unknown suffix, unreadable or malformed; names the file.
    """
    if path.suffix.lower() not in FORMATS:
        with InputFile(path) as file:
            first = file.read(0, SNIFF_BYTES)
        found = (None if is_pointer(first) else describe_unread([path.name])) or describe(first)
        known = ", ".join(FORMATS)
        raise InputError(f"{show_path(path)}: not a file of a known kind ({known})" + (f"; {found}" if found else ""))
    return open_as(path.suffix, path, name, void_dtype)


def open_as(suffix: str, path: Path, name: str, void_dtype: str | None = None) -> Shard:
    """The same by the format of another suffix than the path's own, one that is known.

    Raises:
        InputError: unreadable or malformed; names the file.
    """
    module, attribute = FORMATS[suffix.lower()].split(":")
    open_format: Callable[[Path, str, str | None], Shard] = getattr(importlib.import_module(module), attribute)
    return open_format(path, name, void_dtype)


def void_notes(shard: Shard) -> Iterator[Note]:
    """A note if tensors of the shard may be bfloat16 in NumPy's disguise."""
    dtypes = {"|V2"}
    if shard.path.suffix.lower() != ".safetensors" and not any(tensor.dtype.is_floating for tensor in shard.tensors):
        dtypes |= {"U16", "I16"}
    arrays = [tensor.name for tensor in shard.tensors if tensor.dtype.name in dtypes]
    if arrays:
        yield Note.of(NoteKind.UNNAMED_DTYPE, show_path(shard.path), arrays)


def expand_inputs(arguments: Sequence[str]) -> list[Path]:
    """The paths that INPUT arguments name: a path as it is, a quoted glob as its sorted matches.

    A path that exists is taken as it is, also when its name is made of glob characters.

    Raises:
        InputError: a glob that matches nothing, an empty argument.
        UnavailableError: a URL, which this version cannot read.
    """
    return [path for argument in arguments for path in _expand(argument)]


def _expand(argument: str) -> list[Path]:
    if not argument:
        raise InputError("INPUT is empty; give the path of a file or folder")
    if os.path.lexists(argument):
        return [Path(argument)]
    if re.match(r"(s3|gs|hf|https?)://", argument, re.IGNORECASE):
        raise UnavailableError(
            f"{escape_name(argument)}: remote inputs are not supported by this version; download it and give the path"
        )
    if not glob.has_magic(argument):
        return [Path(argument)]
    # `glob.glob`, not `Path.glob`: patterns may be absolute.
    matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
    if not matches:
        raise InputError(f"{escape_name(argument)}: no file or folder matches; check the pattern")
    return [Path(match) for match in matches]
