"""Errors of the system as errors of this package, with what to do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdqcli.errors import InputError, OutputError
from qdqcli.escape import show_path

_INPUT_HINTS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "check its permissions",
    errno.ELOOP: "the link leads back to itself",
    errno.EIO: "the disk or the network failed",
    errno.ETIMEDOUT: "check the address and the network",
    errno.ESTALE: "the server no longer has the file; start again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}

_OUTPUT_HINTS = {
    errno.ENOSPC: "free some space or choose an OUTPUT on another disk",
    errno.EDQUOT: "free some of the quota or choose an OUTPUT on another disk",
    errno.EFBIG: "raise the limit on file size (ulimit -f)",
    errno.EACCES: "choose an OUTPUT in a folder that you may write to",
    errno.EPERM: "choose an OUTPUT in a folder that you may write to",
    errno.EROFS: "choose an OUTPUT on a disk that can be written",
    errno.EIO: "the disk or the network failed",
    errno.ETIMEDOUT: "check the address and the network",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def input_error(path: Path, error: OSError) -> InputError:
    """Return the error for an input that the system refuses: path, the system's reason, what to do."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return InputError(f"{show_path(path)}: is a link to something that is not there; check where it leads")
    return InputError(_explain(path, error, _INPUT_HINTS))


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the error for an output that the system refuses: path, the system's reason, what to do."""
    return OutputError(_explain(path, error, _OUTPUT_HINTS))


@contextmanager
def blame_input(path: Path) -> Iterator[None]:
    """Turn an error of the system or of a store into an `InputError` on the path."""
    try:
        yield
    except OSError as error:
        raise input_error(path, error) from error


@contextmanager
def blame_output(path: Path) -> Iterator[None]:
    """Turn an error of the system or of a store into an `OutputError` on the path."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def _explain(path: Path, error: OSError, hints: dict[int, str]) -> str:
    hint = hints.get(error.errno or 0)
    return f"{show_path(path)}: {error.strerror or error}" + (f"; {hint}" if hint else "")
