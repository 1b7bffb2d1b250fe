"""Signatures: the first bytes by which a report of `qdq` is told from any other file."""

import re
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.report.formatter import format_for
from qdqcli.tensors.input_file import InputFile

_SIGNATURES = {
    "json": rb'"tool": \{\s*"name": "qdq"',
    "jsonl": rb'"tool": \{\s*"name": "qdq"',
    "junit": rb'<testsuites name="qdq"',
    "sarif": rb'"driver": \{\s*"name": "qdq"',
}
"""Format -> pattern in the first bytes; the other formats have no signature."""
_HEAD_BYTES = 512


def is_signed(path: Path) -> bool:
    """Tell whether the format of this file name has a signature."""
    return format_for(path) in _SIGNATURES


def is_report(path: Path) -> bool:
    """Tell whether the path is an earlier report with a signature, and not a link."""
    if not is_signed(path) or path.is_symlink():
        return False
    try:
        with InputFile(path) as file:
            head = file.read(0, _HEAD_BYTES)
    except InputError:
        return False
    return re.search(_SIGNATURES[format_for(path)], head) is not None
