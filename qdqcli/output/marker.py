"""The marker `qdq.json` in a folder that a run wrote: lists the run's files in the folder."""

import os
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError
from qdqcli.plain import JsonObject
from qdqcli.tensors.input_file import read_file
from qdqcli.tensors.strict_json import parse_object

MARKER = "qdq.json"
_MAX_BYTES = 32 << 20
"""Limit on a marker: names and digests of 200,000 files."""


def listed(file: Path) -> str:
    r"""Return a file's name as a marker lists it: with slashes, and `\xff` for a byte that is not UTF-8."""
    return os.fsencode(file.as_posix()).decode("utf-8", "backslashreplace")


def read_marker(path: Path) -> JsonObject | None:
    """Return the marker's content; None if it is missing, unreadable or not written by a run."""
    try:
        data = parse_object(read_file(path, _MAX_BYTES))
    except (InputError, MalformedError):
        return None
    tool = data.get("tool")
    is_marker = isinstance(tool, dict) and tool.get("name") == "qdq" and isinstance(data.get("outputs"), dict)
    return data if is_marker else None


def marked_files(folder: Path) -> set[str]:
    """Return the files that the folder's marker lists, in the form of `listed`; empty without a marker."""
    data = read_marker(folder / MARKER)
    return set() if data is None else {MARKER, *data["outputs"]}
