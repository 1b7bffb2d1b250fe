"""Protocols of a checkpoint and of its output files, and the functions that open a path as a checkpoint.

To add a file format: a module with an `open_*` function that returns a `Shard`, and a line in `FORMATS`.
"""

import glob
import importlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import MalformedError, escape_name, show_path
from qdqcli.tensors.input_file import CHUNK_BYTES, FileIdentity, InputFile
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.packed.storage import Storage
from qdqcli.tensors.remote_path import RemotePath, is_url, path_from
from qdqcli.tensors.root import root_of
from qdqcli.tensors.signature import SNIFF_BYTES, describe, is_pointer
from qdqcli.tensors.system_error import input_error
from qdqcli.tensors.tensor import DTYPES, TensorInfo
from qdqcli.tensors.unread import describe_unread


class Waiting(NamedTuple):
    """An unfinished file that a later process can complete."""

    name: str
    """File name, in the folder of the finished file."""
    size: int
    """Size in bytes."""


class ShardReader(Protocol):
    """An opened shard. Reads are positional and may come from several threads at once.

    1. A read fills the whole buffer or raises `InputError` that names the file.
    2. Nothing is memory-mapped: a file truncated during a read is an error, never a signal.
    """

    def read_into(self, tensor: TensorInfo, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (contiguous, native type) with the tensor's bytes, beginning at byte `start` of the tensor."""

    def read_batch(self, first: TensorInfo, buffer: memoryview) -> bool:
        """Fill `buffer` with the bytes of a tensor and of those behind it, as far as it goes.

        Returns False, with nothing read, where `start` of a tensor is no position in one file.
        """

    def read_ahead(self, tensors: Iterable[TensorInfo], max_bytes: int) -> None:
        """Say which tensors will be read, in this order: a remote file is requested before it is needed.

        It takes at most `max_bytes` of memory.
        """


class ShardWriter(Protocol):
    """The output file that replaces one shard: same header, same layout, same size (`.npz`: same members).

    1. Every tensor must be written with `write`, or `copy_tensor`, before `commit`.
    2. `commit` flushes the file to disk and only then gives it its final name in the output. The reader that it was
       made with is closed before, which shows whether the input has changed.
    3. `abort` leaves nothing behind. A failed write is an `OutputError` that names the path.
    4. Data flushed by `sync` survives `suspend` and a kill; `Shard.create` can continue from it.
    """

    def write(self, tensor: TensorInfo, start: int, data: memoryview) -> None:
        """Write bytes of the tensor at `start`; positional, callable from several threads at once."""

    def write_batch(self, first: TensorInfo, data: memoryview) -> bool:
        """Write the bytes of a tensor and of those behind it, as far as `data` goes, like `read_batch`."""

    def sync(self) -> Waiting | None:
        """Flush everything written so far to disk; return the unfinished file, None if it cannot be resumed."""

    def commit(self) -> None: ...

    def suspend(self) -> None: ...

    def abort(self) -> None: ...


def copy_tensor(
    tensor: TensorInfo, reader: ShardReader, writer: ShardWriter, on_chunk: Callable[[], None] = lambda: None
) -> None:
    """Copy a tensor byte for byte; `on_chunk` is called before each piece and may raise."""
    buffer = memoryview(bytearray(min(CHUNK_BYTES, tensor.nbytes)))
    for start in range(0, tensor.nbytes, CHUNK_BYTES):
        on_chunk()
        part = buffer[: tensor.nbytes - start]
        reader.read_into(tensor, start, part)
        writer.write(tensor, start, part)


class Shard(Protocol):
    """One file of a checkpoint whose header was read and validated; holds no descriptor."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str:
        """File name relative to the checkpoint, with forward slashes."""

    @property
    def output_name(self) -> str:
        """Name, relative to the output, of the file that replaces it."""

    @property
    def tensors(self) -> Sequence[TensorInfo]:
        """The tensors in file order."""

    @property
    def identity(self) -> FileIdentity:
        """Size, modification time and inode of the file whose header was read; `open` requires the same."""

    @property
    def marks(self) -> frozenset[str]:
        """Keys of the file's metadata that mark packed weights."""

    @property
    def output_bytes(self) -> int:
        """Disk space needed to write the output, temporary files included."""

    def open(self) -> AbstractContextManager[ShardReader]:
        """Open the file for a `with` block.

        Leaving the block without an error compares size and modification time with those at opening, and raises
        `InputError` if the file changed.
        """

    def header_digest(self) -> str:
        """Return a hash of the header's tensor descriptions."""

    def create(self, path: Path, reader: ShardReader, unfinished: str | None = None) -> ShardWriter:
        """Create this shard's replacement at `path`, whose folder exists, or continue the `unfinished` one."""


@dataclass(frozen=True, kw_only=True)
class SideFile:
    """A file in a checkpoint's folder that is not a shard."""

    folder: Path
    """The checkpoint's folder."""
    name: Path
    """Path relative to the folder."""
    follow_links: bool = False
    """Allow links that lead out of the folder."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def open(self) -> InputFile:
        """Open the file that the name leads to now.

        Raises:
            InputError: the file is missing, not regular, or behind a link that leaves the folder.
        """
        with root_of(self.folder, follow_links=self.follow_links) as root:
            found = root.look_up(str(self.name))
            return InputFile(self.path, expected=FileIdentity.of(found.status))

    def identity(self) -> FileIdentity:
        """Return the identity of the file that `open` opens now."""
        with self.open() as file:
            return file.identity


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One input: a file with tensors, or a folder of such files."""

    path: Path
    is_folder: bool
    shards: Sequence[Shard]
    """The shards, sorted by name; a single-file checkpoint has one, named after the file."""
    side_files: Sequence[SideFile] = ()
    """All other files in the folder (config, tokenizer, the index); copied unchanged."""
    notes: Sequence[Note] = ()
    """Notes for the user, e.g. a shard that the index does not list."""
    superseded: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(shard, tensor) -> the shard that the index assigns that tensor to: loaders ignore the copy in this shard."""
    storage: Mapping[tuple[str, str], Storage] = field(default_factory=dict)
    """(shard, tensor) -> storage of a packed weight that appears decoded, see `packed/decoded.py`."""

    @property
    def tensors(self) -> Iterator[TensorInfo]:
        for shard in self.shards:
            yield from shard.tensors


FORMATS = {
    ".safetensors": "qdqcli.tensors.safetensors:open_safetensors",
    ".npy": "qdqcli.tensors.npy:open_npy",
    ".npz": "qdqcli.tensors.npz:open_npz",
    ".gguf": "qdqcli.tensors.gguf:open_gguf",
}
"""File suffix -> function that opens one file of that format as a `Shard`."""


def open_checkpoint(path: Path, *, void_dtype: str | None = None, follow_links: bool = False) -> Checkpoint:
    """Read all headers of the file or folder at `path`, before any data.

    `void_dtype` is the safetensors name of the dtype of `.npy` elements of an unnamed kind (`|V2`) and of integers
    of the same size. `follow_links` allows links that lead out of the folder; `path` itself may always be a link.

    Raises:
        InputError: missing, unreadable or malformed, or a link leaves the folder; names the file.
        UsageError: `void_dtype` is not a dtype's name.
    """
    if void_dtype is not None and void_dtype not in DTYPES:
        raise UsageError(f"dtype '{escape_name(void_dtype)}' is not one of {', '.join(DTYPES)}")
    try:
        if isinstance(path, RemotePath):  # the name of a file saves a request
            is_folder = path.suffix.lower() not in FORMATS and path.is_dir()
        else:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise input_error(path, error) from error
    if is_folder:
        # Lazy import: `sharded` builds on the protocols of this file.
        from qdqcli.tensors.sharded import open_folder

        return open_folder(path, void_dtype, follow_links=follow_links)
    shard = open_file(path, path.name, void_dtype)
    notes = () if path.suffix.lower() == ".safetensors" else tuple(void_notes(shard))
    return Checkpoint(path=path, is_folder=False, shards=(shard,), notes=notes)


def open_file(path: Path, name: str, void_dtype: str | None = None, *, suffix: str | None = None) -> Shard:
    """Read the header of one file; the suffix (case-insensitive), by default the path's own, selects the format.

    `name` is the file's name relative to its checkpoint.

    Raises:
        InputError: unknown suffix, unreadable or malformed; names the file.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix not in FORMATS:
        with InputFile(path) as file:
            first = file.read(0, SNIFF_BYTES)
        found = (None if is_pointer(first) else describe_unread([path.name])) or describe(first)
        known = ", ".join(FORMATS)
        raise InputError(f"{show_path(path)}: not a file of a known kind ({known})" + (f"; {found}" if found else ""))
    module, attribute = FORMATS[suffix].split(":")
    open_format: Callable[[Path, str, str | None], Shard] = getattr(importlib.import_module(module), attribute)
    try:
        return open_format(path, name, void_dtype)
    except MalformedError as error:
        raise InputError(f"{show_path(path)}: {error}") from error


def void_notes(shard: Shard) -> Iterator[Note]:
    """Yield a note if tensors of a shard may be bfloat16 stored under another NumPy dtype; none of safetensors are."""
    has_floats = any(tensor.dtype.is_floating for tensor in shard.tensors)
    dtypes = ("|V2",) if has_floats else ("|V2", "U16", "I16")
    arrays = [tensor.name for tensor in shard.tensors if tensor.dtype.name in dtypes]
    if arrays:
        yield Note.of(NoteKind.UNNAMED_DTYPE, show_path(shard.path), arrays)


def expand_input(argument: str) -> list[Path]:
    """Return the paths that an INPUT argument names: a path or URL unchanged, a quoted glob as its sorted matches.

    An existing path is never expanded, even if its name contains glob characters.

    Raises:
        InputError: a glob that matches nothing, an empty argument, a URL that cannot be read.
    """
    if not argument:
        raise InputError("INPUT is empty; give the path of a file or folder")
    if os.path.lexists(argument):
        return [Path(argument)]
    if is_url(argument):
        return [path_from(argument)]
    if not glob.has_magic(argument):
        return [Path(argument)]
    # `glob.glob`, not `Path.glob`: patterns may be absolute.
    matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
    if not matches:
        raise InputError(f"{escape_name(argument)}: no file or folder matches; check the pattern")
    return [Path(match) for match in matches]
