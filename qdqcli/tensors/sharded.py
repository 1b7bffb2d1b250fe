"""A folder as a checkpoint: which of its files hold tensors, and whether indexes and their shards agree.

In each folder, at every depth: every `.safetensors` file, whether an index names it or not, and, where there is no
index, every file of the other known formats. Everything else is a side file and copied as it is: configurations,
tokenizers, indexes, `.npy` files beside an index, weights in formats that are not read. Only what is not part of a
checkpoint is left out, with a note: `.git`, `.cache`, links to folders. One tensor name may come in several files: an
index says which of its shards counts, elsewhere the file tells them apart.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import show_path
from qdqcli.tensors.checkpoint import FORMATS, Checkpoint, open_file, void_notes
from qdqcli.tensors.hub import is_repository, repository_error
from qdqcli.tensors.index import (
    INDEX_PATTERN,
    Index,
    check_indexes,
    is_index,
    notes_on_names,
    notes_on_tensors,
    read_index,
)
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.storage import input_error
from qdqcli.tensors.unread import FORMATS as UNREAD
from qdqcli.tensors.unread import describe_unread, suffix_of

_SKIPPED_FOLDERS = (".git", ".cache")
"""Made by `git clone` and `hf download` beside a checkpoint; `.git` holds the weights a second time."""


@dataclass(kw_only=True)
class _Findings:
    """What a walk through the folder has found so far; names are relative to it."""

    weights: list[str] = field(default_factory=list)
    side_files: list[str] = field(default_factory=list)
    indexes: dict[str, Index] = field(default_factory=dict)
    """By name."""
    notes: list[Note] = field(default_factory=list)


def open_folder(path: Path, void_dtype: str | None = None) -> Checkpoint:
    """Read an index and all headers of the checkpoint in the folder at `path`.

    Raises:
        InputError: nothing to read, or something malformed; names the index or the shard.
    """
    found = _walk(path)
    if not found.weights:
        unread = describe_unread(found.side_files)
        looked_for = ", ".join(f"*{suffix}" for suffix in FORMATS)
        raise InputError(
            f"{show_path(path)}: no checkpoint in this folder; "
            + (unread or f"looked for {INDEX_PATTERN} and for {looked_for}")
        )
    shards = [open_file(path / name, name, void_dtype) for name in sorted(found.weights)]
    superseded = dict(check_indexes(path, found.indexes, shards))
    notes = [*found.notes, *notes_on_tensors(path, found.indexes, shards, superseded)]
    return Checkpoint(
        path=path,
        is_folder=True,
        shards=tuple(shards),
        side_files=tuple(Path(name) for name in sorted(found.side_files)),
        notes=(*notes, *(note for shard in shards for note in void_notes(shard))),
        superseded=superseded,
    )


def _walk(root: Path) -> _Findings:
    """Sort the files of a folder and of all below it."""
    found = _Findings()
    pending = [""]
    while pending:
        prefix = pending.pop()
        folders, files = _list(root, prefix, found)
        _sort_folder(root, prefix, files, found)
        pending += [f"{prefix}{name}/" for name in folders]
    return found


def _sort_folder(root: Path, prefix: str, files: Sequence[str], found: _Findings) -> None:
    """Put the files of one folder where they belong; its `prefix` is empty or ends with a slash."""
    indexes = {name: read_index(root / prefix / name) for name in files if is_index(name)}
    found.indexes |= {
        prefix + name: {tensor: prefix + shard for tensor, shard in index.items()} for name, index in indexes.items()
    }
    listed = {shard for index in indexes.values() for shard in index.values()}
    found.weights += [prefix + name for name in listed]
    for name in files:
        if name not in listed:
            _sort_file(root, prefix + name, found, has_index=bool(indexes))
    found.notes += notes_on_names(root / prefix, indexes, files, listed)


def _list(root: Path, prefix: str, found: _Findings) -> tuple[list[str], list[str]]:
    """The folders to enter and the files, sorted; what is left out gets its note."""
    folders, files = [], []
    try:
        with os.scandir(root / prefix) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir() or is_index(entry.name):
                    files.append(entry.name)
                elif entry.is_symlink() or entry.name in _SKIPPED_FOLDERS:
                    found.notes.append(Note.of(NoteKind.LEFT_OUT, show_path(root / prefix / entry.name)))
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise input_error(Path(error.filename) if error.filename else root / prefix, error) from error
    if is_repository(folders):
        raise repository_error(root / prefix)
    return folders, files


def _sort_file(root: Path, name: str, found: _Findings, *, has_index: bool) -> None:
    """Put a file that no index names where it belongs."""
    suffix = suffix_of(name)
    is_read = suffix == ".safetensors" or (suffix in FORMATS and not has_index)
    (found.weights if is_read else found.side_files).append(name)
    if not is_read and (suffix in FORMATS or suffix in UNREAD):
        found.notes.append(Note.of(NoteKind.UNREAD, show_path(root / name)))
