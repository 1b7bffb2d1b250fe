"""File tree of an output (one file or a folder): names, and comparison of two files."""

import os
from collections.abc import Callable
from pathlib import Path

from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.system_error import blame_output


def files_below(root: Path) -> list[Path]:
    """Return the files below a folder, relative to it and sorted; for a file, just `.`."""
    if isinstance(root, RemotePath):
        with blame_output(root):
            return list(map(Path, root.store.objects(root))) or [Path()]
    if not root.is_dir():
        return [Path()]
    walked = ((Path(parent).relative_to(root), names) for parent, _, names in os.walk(root))
    return sorted(folder / name for folder, names in walked for name in names)


def first_difference(one: Path, other: Path, on_chunk: Callable[[], None] = lambda: None) -> int | None:
    """Return the first byte offset at which two files differ; None if they are equal. `on_chunk` may raise to stop.

    Raises:
        InputError: one of them cannot be read.
    """
    with InputFile(one) as left, InputFile(other) as right:
        size, offset = min(left.size, right.size), 0
        for a, b in zip(left.chunks(0, size), right.chunks(0, size), strict=True):
            on_chunk()
            if a != b:
                return offset + next(i for i in range(len(a)) if a[i] != b[i])
            offset += len(a)
        return None if left.size == right.size else size
