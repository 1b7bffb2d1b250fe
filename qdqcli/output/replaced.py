"""What `--overwrite` may replace: a folder that holds nothing but files of the new output, or of an earlier one."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from qdqcli.errors import OutputError, UsageError
from qdqcli.escape import show_path
from qdqcli.output.marker import listed, marked_files
from qdqcli.tensors.mount import mount_points
from qdqcli.tensors.storage import output_error


def check_replaced(folder: Path, names: Collection[Path]) -> None:
    """Refuse to replace a folder in which a file or folder would be lost that is nobody's but the user's.

    `names` are the files of the new output, relative to the folder; those of an earlier run are listed by its marker.
    A link that has the folder's name is no more than a link.

    Raises:
        UsageError: names the first file or folder that is neither, or a mount point.
        OutputError: a folder cannot be read, or what is in it not be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for mounted in mount_points(folder):
        raise UsageError(f"{show_path(mounted)}: is a mount point, which --overwrite never replaces; {_ELSEWHERE}")
    files = {*map(listed, names), *marked_files(folder)}
    folders = {listed(parent) for file in files for parent in Path(file).parents}
    for parent, below, others in os.walk(folder, onerror=_refuse):
        path = Path(parent)
        for name in sorted([*below, *others]):
            found = (path / name).relative_to(folder)
            is_folder = name in below and not (path / name).is_symlink()
            if listed(found) not in (folders if is_folder else files):
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


def _refuse(error: OSError) -> NoReturn:
    raise output_error(Path(error.filename), error) from error
