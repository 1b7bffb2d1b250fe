"""Conflict checks on the files that one command reads and writes: no written file may be one of the others."""

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.path import link_target, real_path
from qdqcli.tensors.remote_path import RemotePath

FileId = tuple[int, int]
"""Device and inode: equal for every spelling of a path and for hard links."""


class NamedFile(NamedTuple):
    """A file named on the command line."""

    path: Path
    role: str
    """The option that names it: `--report`."""
    is_appended: bool = False
    """True if the file is only appended to: then it may be anything that accepts bytes, e.g. a pipe."""
    may_join_input: bool = False
    """True if it may be created in an input's folder: the next run will not mistake it for an input."""
    is_earlier: bool = False
    """True if the existing file is a report of an earlier run."""


def check_files(
    reads: Sequence[NamedFile],
    writes: Sequence[NamedFile],
    *,
    inputs: Sequence[Checkpoint] = (),
    outputs: Sequence[Path] = (),
) -> None:
    """Check before the work that each file can be written without harming any of the others.

    Paths are compared as the file system does: through hard and symbolic links, and case-insensitively where a file
    does not exist yet. Nothing may be written to or into `inputs`, except files with `may_join_input`; no file may be
    in `outputs`, which are OUTPUT and the folder where it is built.

    Raises:
        UsageError: a file is also another one, is in a forbidden place, or is not a regular file.
        OutputError: no permission to write.
    """
    for file in writes:
        _check_writable(file)
        for read in reads:
            if is_same_file(file.path, read.path):
                raise UsageError(f"{show_path(file.path)}: {file.role} would replace what {read.role} reads{_OTHER}")
        for checkpoint in inputs:
            _check_outside(file, checkpoint)
    for one, other in combinations(writes, 2):
        if is_same_file(one.path, other.path):
            raise UsageError(f"{show_path(other.path)}: is written by {one.role} and by {other.role}{_OTHER}")
    for file in (*reads, *writes):
        for output in outputs:
            if real_path(output) in (real_path(file.path), *real_path(file.path).parents):
                raise UsageError(
                    f"{show_path(file.path)}: {file.role} is or lies in the output {show_path(output)}; choose another "
                    "place"
                )


_OTHER = "; choose another name"


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, or would once it is created."""
    ids = file_id(one), file_id(other)
    return ids[0] == ids[1] if None not in ids else ids == (None, None) and _future(one) == _future(other)


def files_of(checkpoint: Checkpoint) -> list[Path]:
    """Return the paths of shards and side files."""
    return [shard.path for shard in checkpoint.shards] + [side.path for side in checkpoint.side_files]


def ids_of(paths: Iterable[Path]) -> set[FileId]:
    """Return the ids of the existing paths."""
    return {found for found in map(file_id, paths) if found is not None}


def ids_above(path: Path) -> Iterator[FileId]:
    """Yield the ids of the folders that contain a path."""
    parent = real_path(path.parent)
    for folder in (parent, *parent.parents):
        found = file_id(folder)
        if found is not None:
            yield found


def file_id(path: Path) -> FileId | None:
    """Return the id of the path's target; None if it does not exist. A remote path is told by its name."""
    if isinstance(path, RemotePath):
        return -1, hash(path)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _future(path: Path) -> tuple[FileId | None, str]:
    """Return the key of a file to be created: folder id and name, case-folded for case-insensitive disks."""
    real = real_path(path)
    return file_id(real.parent), unicodedata.normalize("NFC", real.name).casefold()


def _check_outside(file: NamedFile, checkpoint: Checkpoint) -> None:
    """Refuse a file of an input, and a new file that the next or a resumed run would take for one."""
    shown = f"the input {show_path(checkpoint.path)}"
    root = file_id(checkpoint.path) if checkpoint.is_folder else None
    is_inside = root is not None and root in ids_above(real_path(file.path))
    seems_inside = root is not None and root in {file_id(folder) for folder in file.path.absolute().parents}
    if file.is_earlier and is_inside:
        return
    if os.path.lexists(file.path) and (is_inside or seems_inside or file_id(file.path) in ids_of(files_of(checkpoint))):
        raise UsageError(f"{show_path(file.path)}: is a file of {shown}{_OTHER}")
    if seems_inside != is_inside or (is_inside and not file.may_join_input):
        raise UsageError(
            f"{show_path(file.path)}: lies in {shown}, where it would be taken for a part of it; choose another folder"
        )


def _check_writable(file: NamedFile) -> None:
    if isinstance(file.path, RemotePath):  # a store has no folders, and tells on writing who may
        return
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(file.path)):
        raise UsageError(f"{show_path(file.path)}: {file.role} writes no URL; give a path")
    path = link_target(file.path)
    folder = show_path(file.path.parent)
    if not path.parent.is_dir():
        kind = OutputError if file.is_appended else UsageError
        raise kind(f"{show_path(file.path)}: there is no folder {folder} for {file.role}; make it first")
    try:
        mode = file.path.stat().st_mode  # of a pipe, too, whose name in /proc leads nowhere
    except OSError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise UsageError(f"{show_path(file.path)}: is a folder, {file.role} is a file{_OTHER}")
    if mode is not None and not stat.S_ISREG(mode) and not file.is_appended:
        raise UsageError(f"{show_path(file.path)}: is not a regular file{_OTHER}")
    is_writable = os.access(path.parent, os.W_OK | os.X_OK) or (mode is not None and os.access(path, os.W_OK))
    if not is_writable:
        raise OutputError(f"{show_path(file.path)}: no permission to write in {folder}; choose another folder")
