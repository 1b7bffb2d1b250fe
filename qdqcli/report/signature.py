"""Reports that say in their first bytes that `qdq` wrote them, by which an earlier one is told from any other file."""

import re
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.report.formatter import format_for
from qdqcli.tensors.storage import InputFile

_SIGNATURES = {
    "json": rb'"tool": \{\s*"name": "qdq"',
    "jsonl": rb'"tool": \{\s*"name": "qdq"',
    "junit": rb'<testsuites name="qdq"',
    "sarif": rb'"driver": \{\s*"name": "qdq"',
}
"""By format; the others do not say it."""
_HEAD_BYTES = 512


def is_signed(path: Path) -> bool:
    """Whether a report of this name says who wrote it."""
    return format_for(path) in _SIGNATURES


def is_report(path: Path) -> bool:
    """Whether an earlier report has this name: a file of its own, no link to one."""
    if not is_signed(path) or path.is_symlink():
        return False
    try:
        with InputFile(path) as file:
            head = file.read(0, _HEAD_BYTES)
    except InputError:
        return False
    return re.search(_SIGNATURES[format_for(path)], head) is not None
