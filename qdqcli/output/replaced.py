"""Checks for `--overwrite`: it replaces only folders that contain nothing but files of the new or an earlier output."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.marker import listed, marked_files
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.system_error import output_error


def check_replaced(folder: Path, names: Collection[Path]) -> None:
    """Refuse to replace a folder if that would delete a file or folder of the user's.

    `names` are the files of the new output, relative to the folder; its marker lists those of an earlier run. If
    `folder` is a link, only the link is replaced.

    Raises:
        UsageError: a file or folder belongs to neither output, or is a mount point; names the first one.
        OutputError: a folder cannot be read, or its content cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for mounted in mount_points(folder):
        raise UsageError(f"{show_path(mounted)}: is a mount point, which --overwrite never replaces; {_ELSEWHERE}")
    files = {*map(listed, names), *marked_files(folder)}
    holders = {Path(file).parent for file in files}
    folders = {listed(above) for holder in holders for above in (holder, *holder.parents)}
    for parent, below, others in os.walk(folder, onerror=_refuse):
        path = Path(parent)
        within = path.relative_to(folder)
        for name in sorted([*below, *others]):
            found = within / name
            is_folder = name in below and not (path / name).is_symlink()
            if name == _GIT or listed(found) not in (folders if is_folder else files):
                raise UsageError(
                    f"{show_path(folder / found)}: belongs to no output of qdq, and --overwrite would delete it; move "
                    f"it, or {_ELSEWHERE}"
                )
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise OutputError(
                f"{show_path(path)}: is read-only, so --overwrite cannot remove what is in it; chmod u+w it, or "
                f"{_ELSEWHERE}"
            )


_ELSEWHERE = "choose another OUTPUT"
_GIT = ".git"
"""No run writes one, whatever a marker that came with the folder lists."""


def _refuse(error: OSError) -> NoReturn:
    raise output_error(Path(error.filename), error) from error
