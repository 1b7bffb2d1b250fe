"""The file `qdq.json` in a folder that a run wrote: it says which of the folder's files are the run's."""

import json
from pathlib import Path
from typing import Any

from qdqcli.errors import InputError
from qdqcli.tensors.storage import read_file

MARKER = "qdq.json"
_MAX_BYTES = 64 << 20
"""Names and digests of 300,000 files."""


def read_marker(path: Path) -> dict[str, Any] | None:
    """What the file says; None where it is not there, cannot be read, or is not of a run."""
    try:
        data = json.loads(read_file(path, _MAX_BYTES))
    except (InputError, ValueError, RecursionError):
        return None
    is_marker = isinstance(data, dict) and isinstance(data.get("outputs"), dict) and "tensors" not in data
    return data if is_marker and data.get("tool", {}) and data["tool"].get("name") == "qdq" else None


def marked_files(folder: Path) -> set[Path]:
    """The files, relative to the folder, that the run wrote of which the folder's marker speaks."""
    data = read_marker(folder / MARKER)
    return set() if data is None else {Path(MARKER), *map(Path, data["outputs"])}
