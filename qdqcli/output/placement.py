"""Checks on where OUTPUT may be written; they change nothing on disk."""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path, show_size
from qdqcli.output.files import FileId, file_id, files_of, ids_above, ids_of
from qdqcli.tensors.checkpoint import FORMATS, Checkpoint
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.path import real_path
from qdqcli.tensors.system_error import blame_output

ROOT = Path("/")


def check_placement(
    checkpoints: Sequence[Checkpoint],
    output: Path,
    partial: Path,
    *,
    protected: Sequence[Checkpoint] = (),
    may_exist: bool,
) -> None:
    """Refuse an OUTPUT of `checkpoints` that would harm them, `protected` inputs or existing files.

    Raises:
        UsageError: `output` has no name or no parent folder, is named like a file of another kind, exists, or is,
            contains or is inside an input.
        InputError: a side file cannot be read.
        OutputError: the disk has too little space.
    """
    if output.name in ("", ".."):
        raise UsageError(f"{show_path(output)}: is not a name for an output; give the path of a new file or folder")
    is_folder = len(checkpoints) > 1 or checkpoints[0].is_folder
    if not output.parent.is_dir():
        raise UsageError(f"{show_path(output)}: there is no folder {show_path(output.parent)}; create it first")
    inputs = {id(checkpoint): checkpoint for checkpoint in (*checkpoints, *protected)}
    for checkpoint in inputs.values():
        _check_apart(checkpoint, (output, partial))
    check_kind(checkpoints, output)
    check_free(output, is_folder=is_folder, may_exist=may_exist)
    _check_disk(output)
    _check_space(checkpoints, output, partial)


def check_kind(checkpoints: Sequence[Checkpoint], output: Path) -> None:
    """Refuse the name of a file for a folder, and that of another kind of file than the input."""
    is_folder = len(checkpoints) > 1 or checkpoints[0].is_folder
    if is_folder and output.suffix.lower() in FORMATS:
        raise UsageError(
            f"{show_path(output)}: is the name of a file, the output is a folder; choose a name without {output.suffix}"
        )
    kind = Path(checkpoints[0].shards[0].output_name).suffix.lower() if not is_folder else ""
    if not is_folder and output.suffix.lower() in {*FORMATS} - {kind}:
        raise UsageError(
            f"{show_path(output)}: is the name of another kind of file than the input, whose layout is kept; choose a "
            f"name that ends with {kind}"
        )


def check_free(output: Path, *, is_folder: bool, may_exist: bool) -> None:
    """Refuse an existing OUTPUT, unless it may exist and is of the kind that replaces it."""
    with blame_output(output):
        try:
            mode = output.lstat().st_mode
            if stat.S_ISLNK(mode) and output.exists():
                mode = output.stat().st_mode
        except FileNotFoundError:
            return
    if not may_exist:
        raise UsageError(f"{show_path(output)}: exists; choose another OUTPUT or pass --overwrite to replace it")
    if is_folder and stat.S_ISREG(mode):
        raise UsageError(f"{show_path(output)}: is a file, the output is a folder; choose another OUTPUT")
    if not is_folder and stat.S_ISDIR(mode):
        raise UsageError(f"{show_path(output)}: is a folder, the output is a file; choose another OUTPUT")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise UsageError(f"{show_path(output)}: is neither a file nor a folder; choose another OUTPUT")


def anchored(path: Path) -> Path:
    """Return the path, made absolute if it leaves the working folder, which may be inside OUTPUT and move with it."""
    folder, here = real_path(path.parent), real_path(Path())
    return path if path.is_absolute() or here in (folder, *folder.parents) else folder / path.name


def _check_disk(output: Path) -> None:
    """Refuse a mount point, which no rename can replace, and a path below the system's devices and processes.

    Raises:
        UsageError: OUTPUT is one of these.
    """
    if os.path.lexists(output) and not output.is_symlink() and real_path(output) in mount_points(output):
        raise UsageError(
            f"{show_path(output)}: is a mount point, whose name cannot be given to another folder or file; give a new "
            "name in it"
        )
    folder = real_path(output.parent)
    for system in map(Path, ("/dev", "/proc", "/sys")):
        if system in (folder, *folder.parents) and folder.stat().st_dev == system.stat().st_dev != ROOT.stat().st_dev:
            raise UsageError(f"{show_path(output)}: lies in {system}, which is no disk; choose another OUTPUT")


def _check_apart(checkpoint: Checkpoint, outputs: Sequence[Path]) -> None:
    """Refuse outputs that are, contain or are inside an input, through links of any kind."""
    protected = _protected_ids(checkpoint) if ids_of(outputs) else set()
    for output in outputs:
        if checkpoint.is_folder:
            lies_in = {found for path in (output, real_path(output)) for found in ids_above(path)}
            if file_id(checkpoint.path) in lies_in:
                raise UsageError(f"{show_path(output)}: lies in the input {show_path(checkpoint.path)}; choose another")
        if protected and file_id(output) in protected:
            raise UsageError(f"{show_path(output)}: is or holds the input {show_path(checkpoint.path)}; choose another")


def _protected_ids(checkpoint: Checkpoint) -> set[FileId]:
    """Return the ids of an input's files and of every folder that contains one of them, with links resolved."""
    paths = (checkpoint.path, *files_of(checkpoint))
    folders = {folder for path in paths for folder in (path.parent, real_path(path).parent)}
    above = set(map(real_path, folders))
    above |= {parent for folder in above for parent in folder.parents}
    return ids_of([*paths, *above])


def _check_space(checkpoints: Sequence[Checkpoint], output: Path, partial: Path) -> None:
    """Check the free space; what an earlier run left in `partial` is removed or continued, so it counts as free."""
    needed = sum(shard.output_bytes for checkpoint in checkpoints for shard in checkpoint.shards)
    for side_file in (side_file for checkpoint in checkpoints for side_file in checkpoint.side_files):
        needed += side_file.identity().size
    with blame_output(output.parent):
        usage = shutil.disk_usage(output.parent)
    free = usage.free
    if free < needed and usage.total and free + _bytes_on_disk(partial) < needed:  # some file systems report nothing
        raise OutputError(
            f"{show_path(output)}: needs {show_size(needed)} but the disk has {show_size(free)} free; "
            "free some space or choose an OUTPUT on another disk"
        )


def _bytes_on_disk(folder: Path) -> int:
    """Return the disk usage of the files below a folder; 0 if it does not exist."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += 512 * (Path(parent) / name).lstat().st_blocks
    return total
