"""The files of an output, one or a folder of them: their names, and whether two are the same."""

import os
from collections.abc import Callable
from pathlib import Path

from qdqcli.tensors.storage import CHUNK_BYTES, InputFile


def files_below(root: Path) -> list[Path]:
    """The files below a folder, relative to it and sorted; of a file, its own place `.`."""
    if not root.is_dir():
        return [Path()]
    found = [Path(parent, name).relative_to(root) for parent, _, names in os.walk(root) for name in names]
    return sorted(found)


def first_difference(one: Path, other: Path, on_chunk: Callable[[], None] = lambda: None) -> int | None:
    """The first byte at which two files differ; None where they are equal. `on_chunk` may raise to stop.

    Raises:
        InputError: one of them cannot be read.
    """
    with InputFile(one) as left, InputFile(other) as right:
        size = min(left.size, right.size)
        a, b = bytearray(min(CHUNK_BYTES, size)), bytearray(min(CHUNK_BYTES, size))
        for offset in range(0, size, CHUNK_BYTES):
            on_chunk()
            if size - offset < len(a):
                a, b = a[: size - offset], b[: size - offset]
            left.read_into(memoryview(a), offset)
            right.read_into(memoryview(b), offset)
            if a != b:
                return offset + next(i for i in range(len(a)) if a[i] != b[i])
        return None if left.size == right.size else size
