"""Paths, here or in a store: existence, kind, and targets of links."""

import os
import stat
from pathlib import Path

from qdqcli.errors import OutputError
from qdqcli.escape import show_path
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_input, blame_output

MAX_LINKS = 40
"""Links in a row that Linux follows."""

_SHARED = stat.S_ISVTX | stat.S_IWOTH
"""Mode bits of a folder where all may write, and none remove what is another's."""


def real_path(path: Path) -> Path:
    """Resolve the path's links; a dangling or circular link is resolved as far as possible."""
    return path if isinstance(path, RemotePath) else Path(os.path.realpath(path))


def link_target(path: Path) -> Path:
    """Return where a file that is written at `path` goes, through links.

    They are read here and not by the system, which would refuse the same with `fs.protected_symlinks`.

    Raises:
        OutputError: one is another user's, in a folder where all may write (`/tmp`): it could lead into a home.
    """
    link = path
    for _ in range(MAX_LINKS):
        if not link.is_symlink():
            break
        with blame_output(link):  # it may be changed at the same time
            folder, owner, leads_to = link.parent.stat(), link.lstat().st_uid, link.readlink()
        if folder.st_mode & _SHARED == _SHARED and owner not in (os.geteuid(), folder.st_uid):
            raise OutputError(
                f"{show_path(link)}: is a link that another user ({owner}) made in a folder where all may write; "
                "remove it, or choose another name"
            )
        link = link.parent / leads_to
    return Path(os.path.realpath(path))


def lexists(path: Path) -> bool:
    """Tell whether there is a file, a folder or a link of this name."""
    if not isinstance(path, RemotePath):
        return os.path.lexists(path)
    from qdqcli.tensors.remote import known  # lazy: local files do not need it

    return known(path) is not None or is_file(path)


def is_file(path: Path) -> bool:
    """Tell whether there is a file of this name.

    Raises:
        InputError: a store does not tell.
    """
    with blame_input(path):
        return path.is_file()


def is_pipe(path: Path) -> bool:
    """Tell whether the path leads to a pipe, such as the shell's `<(command)`."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False
