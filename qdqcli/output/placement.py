"""Whether OUTPUT, and a file beside it, may be written where it is asked for; looks only, leaves nothing."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path, show_size
from qdqcli.tensors.checkpoint import Checkpoint
from qdqcli.tensors.storage import InputFile, free_bytes, output_error

FileId = tuple[int, int]
"""Device and inode: the same for every spelling of a path and for hard links."""


def check_placement(
    checkpoints: Sequence[Checkpoint],
    output: Path,
    partial: Path,
    *,
    protected: Sequence[Checkpoint] = (),
    may_exist: bool,
) -> None:
    """Refuse an OUTPUT of `checkpoints` that would harm them, `protected` inputs or something that is there already.

    Raises:
        UsageError: `output` has no name or no parent folder, exists, or is, holds or lies in an input.
        InputError: a side file cannot be read.
        OutputError: the disk has too little space.
    """
    if output.name in ("", ".."):
        raise UsageError(f"{show_path(output)}: is not a name for an output; give the path of a new file or folder")
    if not output.parent.is_dir():
        raise UsageError(f"{show_path(output)}: there is no folder {show_path(output.parent)}; create it first")
    _check_apart([*checkpoints, *protected], output)
    _check_apart([*checkpoints, *protected], partial)
    check_free(output, is_folder=len(checkpoints) > 1 or checkpoints[0].is_folder, may_exist=may_exist)
    _check_space(checkpoints, output, partial)


def check_extra_file(path: Path, checkpoints: Sequence[Checkpoint], outputs: Sequence[Path] = ()) -> None:
    """Refuse a file other than OUTPUT, a report say, that would replace a file of an input or has OUTPUT's place.

    A new name in an input's folder is no harm. `outputs` are OUTPUT and where it is built.

    Raises:
        UsageError: what the file would harm.
    """
    for checkpoint in checkpoints:
        is_inside = checkpoint.is_folder and _file_id(checkpoint.path) in set(_ids_above(path))
        if os.path.lexists(path) and (is_inside or _file_id(path) in _ids_of_files(checkpoint)):
            raise UsageError(
                f"{show_path(path)}: is a file of the input {show_path(checkpoint.path)}; choose another name"
            )
    for output in outputs:
        if _resolve(output) in (_resolve(path), *_resolve(path).parents):
            raise UsageError(f"{show_path(path)}: is or lies in the output {show_path(output)}; choose another place")


def check_free(output: Path, *, is_folder: bool, may_exist: bool) -> None:
    """Refuse an OUTPUT that exists, unless it may and is of the kind that takes its place."""
    try:
        mode = output.lstat().st_mode
        if stat.S_ISLNK(mode) and output.exists():
            mode = output.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(output, error) from error
    if not may_exist:
        raise UsageError(f"{show_path(output)}: exists; choose another OUTPUT or pass --overwrite to replace it")
    if is_folder and stat.S_ISREG(mode):
        raise UsageError(f"{show_path(output)}: is a file, the output is a folder; choose another OUTPUT")
    if not is_folder and stat.S_ISDIR(mode):
        raise UsageError(f"{show_path(output)}: is a folder, the output is a file; choose another OUTPUT")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise UsageError(f"{show_path(output)}: is neither a file nor a folder; choose another OUTPUT")


def _check_apart(checkpoints: Sequence[Checkpoint], output: Path) -> None:
    """Refuse an OUTPUT that is an input, holds one or lies in one, through links of any kind."""
    lies_in = {found for path in (output, _resolve(output)) for found in _ids_above(path)}
    target = _file_id(output)
    for checkpoint in checkpoints:
        if checkpoint.is_folder and _file_id(checkpoint.path) in lies_in:
            raise UsageError(f"{show_path(output)}: lies in the input {show_path(checkpoint.path)}; choose another")
        if target is not None and target in _protected_ids(checkpoint):
            raise UsageError(f"{show_path(output)}: is or holds the input {show_path(checkpoint.path)}; choose another")


def _protected_ids(checkpoint: Checkpoint) -> set[FileId | None]:
    """The files of an input, and every folder that holds one of them, by their real place."""
    paths = (checkpoint.path, *_files_of(checkpoint))
    above = {_resolve(folder) for path in paths for folder in (path.parent, _resolve(path).parent)}
    above |= {parent for folder in above for parent in folder.parents}
    return {_file_id(path) for path in (checkpoint.path, *above)} | _ids_of_files(checkpoint)


def _ids_of_files(checkpoint: Checkpoint) -> set[FileId | None]:
    return {_file_id(path) for path in _files_of(checkpoint)} - {None}


def _files_of(checkpoint: Checkpoint) -> list[Path]:
    """Shards and side files."""
    return [shard.path for shard in checkpoint.shards] + [checkpoint.path / side for side in checkpoint.side_files]


def _ids_above(path: Path) -> Iterator[FileId]:
    """The folders that a path lies in."""
    parent = _resolve(path.parent)
    for folder in (parent, *parent.parents):
        found = _file_id(folder)
        if found is not None:
            yield found


def _resolve(path: Path) -> Path:
    """The path without links; as far as it goes where a link leads nowhere or to itself."""
    return Path(os.path.realpath(path))


def _file_id(path: Path) -> FileId | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_space(checkpoints: Sequence[Checkpoint], output: Path, partial: Path) -> None:
    """What an earlier run left in `partial` is removed or gone on with: its space counts as free."""
    needed = sum(shard.output_bytes for checkpoint in checkpoints for shard in checkpoint.shards)
    for path in (checkpoint.path / side for checkpoint in checkpoints for side in checkpoint.side_files):
        with InputFile(path) as file:
            needed += file.size
    free = free_bytes(output.parent)
    if free is not None and free + _bytes_on_disk(partial) < needed:
        raise OutputError(
            f"{show_path(output)}: needs {show_size(needed)} but the disk has {show_size(free)} free; "
            "free some space or choose an OUTPUT on another disk"
        )


def _bytes_on_disk(folder: Path) -> int:
    """What the files below a folder take; 0 where it is not there."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += 512 * (Path(parent) / name).lstat().st_blocks
    return total
