"""Escaping of file names and of names found in files, for error messages."""

import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qdqcli.errors import InputError

NAME_LIMIT = 120
"""Maximum number of characters of a name in a message; a tensor's name may have 100,000."""


class MalformedError(Exception):
    """Malformed content of a file. `blame` adds the file's name and converts it to an `InputError`."""


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Convert `MalformedError` to an `InputError` that names `path`."""
    try:
        yield
    except MalformedError as error:
        raise InputError(f"{show_path(path)}: {error}") from error


def escape_name(name: str, limit: int = NAME_LIMIT) -> str:
    """Escape control characters, text-direction marks and invalid surrogates in a name, and truncate it to `limit`."""
    text = escape(name[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def show_command(words: Iterable[str]) -> str:
    """Return a command for a message, quoted for a shell."""
    return escape(shlex.join(words))


def show_path(path: Path) -> str:
    """Escape a whole path for a message: it may contain newlines or bytes that are not UTF-8."""
    text = str(path)
    return text if text.isprintable() else escape(text)


def show_size(nbytes: int) -> str:
    """Format a number of bytes for a message: exact, and with a unit if large."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if nbytes >= 1000**power:
            return f"{nbytes} bytes ({nbytes / 1000**power:.3g} {unit})"
    return f"{nbytes} bytes"


def escape(text: str) -> str:
    """Escape control characters, text-direction marks and invalid surrogates; the whole text stays on one line."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def without_commands(text: str) -> str:
    """Break up CI commands: a line that starts with `::`; `##vso[` and `##[` anywhere."""
    return text.replace("::", ":\\x3a").replace("##", "#\\x23")


def without_secrets(text: str) -> str:
    """Remove the queries and passwords of web addresses, which sign them; also of one that was taken for a path."""
    text = re.sub(r"(?i)\b(https?:/{1,2}[^\s?#'\"]*)\?[^\s'\"]*[\w%&=/+~-]", r"\1", text)
    return re.sub(r"(?i)\b(https?:/{1,2})[^\s/?#'\"]*@", r"\1", text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as Python represents it in file names
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
