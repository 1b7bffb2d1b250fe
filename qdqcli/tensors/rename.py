"""Renames that never replace, and name exchange: Linux's `renameat2`, with portable fallbacks."""

import ctypes
import errno
import os
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
"""Flags of `renameat2`, from linux/fs.h."""
_MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""Errors meaning that the kernel, the file system or a sandbox does not support the call or the flag."""


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder to a free name.

    Raises:
        FileExistsError: the name is taken, possibly in another spelling that the file system considers equal.
        OSError: the system refuses.
    """
    if not _renameat2(source, target, _NOREPLACE):
        _rename_if_free(source, target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; return False, with nothing changed, if the system cannot.

    Raises:
        OSError: the system refuses.
    """
    return _renameat2(one, other, _EXCHANGE)


def _rename_if_free(source: Path, target: Path) -> None:
    """Hard-link as a fallback: fails if the name is taken; for folders and file systems without links, check first."""
    if not source.is_dir() or source.is_symlink():
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            pass
        else:
            source.unlink()
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Call the system; return False if it does not support the call."""
    call = _libc_renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        number = ctypes.get_errno()
        if number in _MISSING:
            return False
        raise OSError(number, os.strerror(number), str(target))
    return True


@cache
def _libc_renameat2() -> "ctypes._NamedFuncPointer | None":
    """Return the C library's function; glibc 2.28 and musl 1.2.6 have it."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call
