"""How an error message speaks of files and of the names found in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdqcli.errors import InputError

NAME_LIMIT = 120
"""Characters of a name that a message shows; a tensor's name may have 100,000."""


class MalformedError(Exception):
    """What is wrong with the content of a file. `blame` adds which file and makes it an `InputError`."""


@contextmanager
def blame(path: Path) -> Iterator[None]:
    """Turn `MalformedError` into an `InputError` that names `path`."""
    try:
        yield
    except MalformedError as error:
        raise InputError(f"{show_path(path)}: {error}") from error


def escape_name(name: str, limit: int = NAME_LIMIT) -> str:
    """The name with control characters, text-direction marks and invalid surrogates escaped, cut to `limit`."""
    text = escape(name[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def show_path(path: Path) -> str:
    """The whole path for a message, escaped like a name: it may hold newlines or bytes that are not UTF-8."""
    return escape(str(path))


def show_size(nbytes: int) -> str:
    """A number of bytes for a message, exact and, where it is large, with a unit."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")):
        if nbytes >= 1000**power:
            return f"{nbytes} bytes ({nbytes / 1000**power:.3g} {unit})"
    return f"{nbytes} bytes"


def escape(text: str) -> str:
    """The whole text on one line, with control characters, text-direction marks and invalid surrogates escaped."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def without_commands(text: str) -> str:
    """Break up what a CI system takes for a command: a line that starts with `::`, `##vso[` and `##[` anywhere."""
    return text.replace("::", ":\\x3a").replace("##", "#\\x23")


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as Python spells it in file names
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
