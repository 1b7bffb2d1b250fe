"""Standard output and standard error of any kind: terminals, closed pipes, full disks, closed descriptors.

`click.echo` is not used: it writes UTF-8 to an ASCII stream and strips colours from pipes.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from typing import IO, TextIO

from qdqcli.escape import escape, without_commands, without_secrets


def prepare() -> None:
    """Replace closed streams (`>&-`) by `/dev/null`, and let an ASCII stream escape other characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each takes the free descriptor that is its own, which no other file should get.
            setattr(sys, name, _nowhere(mode))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _nowhere(mode: str) -> IO[str]:
    """Return an empty stream that drops its output."""
    try:
        return open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123
    except OSError:  # no /dev here, as in a sandbox: anything that can be opened reserves the descriptor
        os.open("/", os.O_RDONLY)
        return StringIO()


def write(text: str) -> None:
    """Write to standard output.

    Raises:
        OSError: the system refuses, without a file's name; `BrokenPipeError` where the reader has gone.
    """
    sys.stdout.write(text)


def write_all(pieces: Iterable[str]) -> None:
    """Write pieces as they are made; raises like `write`."""
    for piece in pieces:
        write(piece)


def say(text: str) -> None:
    """Write one or more lines to standard error; a full or closed stream is ignored.

    Names and paths are escaped: they cannot move the cursor or form a command for a CI system. Signed URLs lose their
    signature, whatever they were mistaken for.
    """
    lines = (without_commands(escape(without_secrets(line))) for line in text.split("\n"))
    with suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def settle() -> None:
    """Flush the streams; drops what cannot be written, which Python would turn into exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _abandon(stream)


def _abandon(stream: TextIO) -> None:
    """Redirect the stream's descriptor to `/dev/null`, so that the flush at Python's exit succeeds."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
