"""Temporaries of output files: their names, and the removal of those that killed processes left."""

import fcntl
import hashlib
import os
import secrets
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

TEMPORARY_PATTERN = ".qdq-*.tmp"
"""Glob of the temporaries of `OutputFile`; in a folder locked by this process they are stale."""

STALE_S = 24 * 3600.0
"""Age in seconds after which a temporary of another machine, whose locks may be invisible here, counts as stale."""


def temporary_of(path: Path) -> Path:
    """Return a new name for a temporary of `path`, in its folder."""
    return path.with_name(f".qdq-{_hashed_name(path)}-{_machine()}{secrets.token_hex(4)}.tmp")


def sweep_temporaries(path: Path) -> None:
    """Remove stale temporaries of `path`.

    A process locks its temporaries. Locks of another machine may be invisible here: its temporaries stay for STALE_S.
    """
    with suppress(OSError):  # the folder cannot be listed, which does not keep anybody from writing
        for temporary in path.parent.glob(f".qdq-{_hashed_name(path)}-*.tmp"):
            _remove_stale(temporary)


def _remove_stale(temporary: Path) -> None:
    with suppress(OSError):  # locked, not ours, or gone: harmless
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_local = temporary.stem.rpartition("-")[2][:-8] == _machine()
            if is_local or time.time() - os.fstat(descriptor).st_mtime > STALE_S:
                temporary.unlink()
        finally:
            os.close(descriptor)


def _hashed_name(path: Path) -> str:
    """Return the hash that identifies the file name in a temporary's name."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


@cache
def _machine() -> str:
    """Return the hash that identifies this boot in a temporary's name; containers share it, as they share locks."""
    try:
        return hashlib.sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:8]
    except OSError:
        return secrets.token_hex(4)  # unique
