"""Standard output and standard error, whatever they are: terminals, pipes that closed, full disks, nothing.

`click.echo` is not used: it writes UTF-8 to an ASCII stream and takes colours out of what goes to a pipe.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from typing import IO, TextIO

from qdqcli.escape import escape, without_commands


def prepare() -> None:
    """Put `/dev/null` where a stream is closed (`>&-`), and let an ASCII stream show what it can."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each takes the free descriptor that is its own, which no other file should get.
            setattr(sys, name, _nowhere(mode))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _nowhere(mode: str) -> IO[str]:
    """A stream that is empty and drops what is written."""
    try:
        return open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123
    except OSError:  # no /dev here, as in a sandbox: anything that can be opened keeps the descriptor
        os.open("/", os.O_RDONLY)
        return StringIO()


def write(text: str) -> None:
    """Write to standard output.

    Raises:
        OSError: the system refuses, without a file's name; `BrokenPipeError` where the reader has gone.
    """
    sys.stdout.write(text)


def write_all(pieces: Iterable[str]) -> None:
    """Write pieces as they are made; raises as `write`."""
    for piece in pieces:
        write(piece)


def say(text: str) -> None:
    """Write a line, or several, to standard error; one that is full or closed is no reason to stop.

    Whatever names and paths are in it: nothing moves the cursor, and no CI system finds a command.
    """
    lines = (without_commands(escape(line)) for line in text.split("\n"))
    with suppress(OSError):
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def settle() -> None:
    """Write what is left; what no longer can be is dropped, or else Python makes exit code 120 of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _abandon(stream)


def _abandon(stream: TextIO) -> None:
    """Lead the stream's descriptor to `/dev/null`: the flush at Python's exit succeeds there."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
