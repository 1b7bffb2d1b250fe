"""Checkpoint folders: which files hold tensors, and consistency of indexes and shards.

Read in each folder, at every depth: every `.safetensors` file, whether indexed or not, and, without an index, every
file of the other known formats; `.gguf` files only where nothing else is. Everything else is a side file and copied
unchanged: configurations, tokenizers, indexes, `.npy` files beside an index, weights in unread formats. Links, also to
folders, count as their targets. Only `.git` and `.cache`, which are not part of a checkpoint, are left out, with a
note. Several files may have a tensor of the same name: an index says which shard counts; without one, the file name
distinguishes them.
"""

import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import escape_name, show_path
from qdqcli.tensors.checkpoint import FORMATS, Checkpoint, Shard, SideFile, open_file, void_notes
from qdqcli.tensors.gguf_names import model_of
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
from qdqcli.tensors.input_file import FileIdentity
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.npy import ObjectArrayError
from qdqcli.tensors.remote_path import RemotePath
from qdqcli.tensors.root import Root, root_of
from qdqcli.tensors.unread import FORMATS as UNREAD
from qdqcli.tensors.unread import describe_unread, suffix_of

_SKIPPED = (".git", ".cache")
"""Created by `git clone` and `hf download` beside a checkpoint; `.git` holds a second copy of the weights."""

MAX_WAYS = 16
"""Maximum number of link paths to one folder: without a limit 30 folders could have 10^9 names."""

HEADS_AT_ONCE = 64
"""Shards of a store whose first bytes are requested before the first is opened."""


@dataclass(kw_only=True)
class _Findings:
    """Results of the folder walk so far; names are relative to the folder."""

    root: Root
    weights: list[str] = field(default_factory=list)
    side_files: list[str] = field(default_factory=list)
    identities: dict[str, FileIdentity] = field(default_factory=dict)
    """Identity of each file's target, by name."""
    indexes: dict[str, Index] = field(default_factory=dict)
    """Indexes by name."""
    notes: list[Note] = field(default_factory=list)
    outside: set[str] = field(default_factory=set)
    """Name prefixes of folders behind a link that leaves the checkpoint."""
    ways: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of times each folder was entered, by device and inode."""


def open_folder(path: Path, void_dtype: str | None = None, *, follow_links: bool = False) -> Checkpoint:
    """Read the indexes and all headers of the checkpoint in the folder at `path`.

    Raises:
        InputError: nothing to read, malformed data, or a forbidden link out of the folder (see `CheckpointRoot`); names
            the file.
    """
    with root_of(path, follow_links=follow_links) as root:
        found = _Findings(root=root)
        _walk(found)
    _sort_gguf(found)
    if not found.weights:
        unread = describe_unread(found.side_files)
        looked_for = ", ".join(f"*{suffix}" for suffix in FORMATS)
        raise InputError(
            f"{show_path(path)}: no checkpoint in this folder; "
            + (unread or f"looked for {INDEX_PATTERN} and for {looked_for}")
        )
    shards = list(_open_shards(found, void_dtype))
    superseded = dict(check_indexes(path, found.indexes, shards))
    notes = [*found.notes, *notes_on_tensors(path, found.indexes, shards, superseded)]
    return Checkpoint(
        path=path,
        is_folder=True,
        shards=tuple(shards),
        side_files=tuple(
            SideFile(folder=path, name=Path(name), follow_links=follow_links) for name in sorted(found.side_files)
        ),
        notes=(
            *notes,
            *(note for shard in shards if suffix_of(shard.name) != ".safetensors" for note in void_notes(shard)),
        ),
        superseded=superseded,
    )


def _sort_gguf(found: _Findings) -> None:
    """Leave GGUF files beside other weights unread: they are another copy of the model, as a rule.

    Raises:
        InputError: the folder holds several GGUF models and nothing else.
    """
    files = [name for name in found.weights if suffix_of(name) == ".gguf"]
    if len(files) < len(found.weights):
        found.weights = [name for name in found.weights if name not in files]
        found.side_files += files
        found.notes += [Note.of(NoteKind.UNREAD, show_path(found.root.path / name)) for name in files]
    elif len({model_of(name) for name in files}) > 1:
        shown = ", ".join(f"'{escape_name(name)}'" for name in files[:3])
        raise InputError(f"{show_path(found.root.path)}: {len(files)} GGUF models ({shown}); give one of the files")


def _open_shards(found: _Findings, void_dtype: str | None) -> Iterator[Shard]:
    """Open the weight files; arrays of Python objects become side files, unless there is no other weight file."""
    path = found.root.path
    names = sorted(found.weights)
    for i, name in enumerate(names):
        if isinstance(path, RemotePath) and i % HEADS_AT_ONCE == 0:
            from qdqcli.tensors.remote import learn_heads  # lazy: local folders do not need it

            learn_heads([path / later for later in names[i : i + HEADS_AT_ONCE]])
        try:
            yield _open_shard(path / name, name, void_dtype, found.identities[name])
        except InputError as error:
            if not isinstance(error.__cause__, ObjectArrayError) or len(names) == 1:
                raise
            found.side_files.append(name)
            found.notes.append(Note.of(NoteKind.UNREAD, show_path(path / name)))


def _open_shard(path: Path, name: str, void_dtype: str | None, identity: FileIdentity) -> Shard:
    shard = open_file(path, name, void_dtype)
    if shard.identity != identity:
        raise InputError(f"{show_path(path)}: was replaced while the folder was read; start again")
    return shard


def _walk(found: _Findings) -> None:
    """Classify the files of the folder and its subfolders."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        prefix, above = pending.pop()
        here = _enter(prefix, above, found)
        folders, files = _list(prefix, found)
        _sort_folder(prefix, files, found)
        pending += [(f"{prefix}{name}/", above | {here}) for name in folders]


def _enter(prefix: str, above: frozenset[tuple[int, int]], found: _Findings) -> tuple[int, int]:
    """Return a folder's device and inode; `above` are those of the enclosing folders."""
    status = found.root.look_up(prefix).status
    here = status.st_dev, status.st_ino
    found.ways[here] += 1
    shown = show_path(found.root.path / prefix)
    if here in above:
        raise InputError(f"{shown}: is a link to a folder that holds it; remove the link")
    if found.ways[here] > MAX_WAYS:
        raise InputError(f"{shown}: more than {MAX_WAYS} links show this folder; remove some")
    return here


def _sort_folder(prefix: str, files: Sequence[str], found: _Findings) -> None:
    """Classify the files of one folder; its `prefix` is empty or ends with a slash."""
    folder = found.root.path / prefix
    indexes = {name: read_index(folder / name, found.identities[prefix + name]) for name in files if is_index(name)}
    listed = {shard for index in indexes.values() for shard in index.values()}
    full_names = {name: prefix + name for name in listed}
    found.indexes |= {
        prefix + name: {tensor: full_names[shard] for tensor, shard in index.items()} for name, index in indexes.items()
    }
    found.weights += full_names.values()
    for name in listed.difference(files):  # a folder, or another spelling on a case-insensitive disk
        found.identities[prefix + name] = FileIdentity.of(found.root.look_up(prefix + name).status)
    for name in files:
        if name not in listed:
            _sort_file(prefix + name, found, has_index=bool(indexes))
    found.notes += notes_on_names(folder, indexes, files, listed)


def _list(prefix: str, found: _Findings) -> tuple[list[str], list[str]]:
    """Return the folders to enter and the files, both sorted; add notes on skipped folders and outside links."""
    folder = found.root.path / prefix
    folders, files = [], []
    for name in found.root.names(prefix):
        if name in _SKIPPED:
            found.notes.append(Note.of(NoteKind.LEFT_OUT, show_path(folder / name)))
            continue
        status, left_to = found.root.look_up(prefix + name)
        if left_to is not None and prefix not in found.outside:
            found.notes.append(Note.of(NoteKind.LINK, show_path(folder / name), other=left_to))
        if stat.S_ISDIR(status.st_mode) and not is_index(name):
            folders.append(name)
            found.outside |= {f"{prefix}{name}/"} if left_to is not None else set()
        else:
            files.append(name)
            found.identities[prefix + name] = FileIdentity.of(status)
    if is_repository(folders):
        raise repository_error(folder)
    return folders, files


def _sort_file(name: str, found: _Findings, *, has_index: bool) -> None:
    """Classify a file that no index lists."""
    suffix = suffix_of(name)
    is_read = suffix == ".safetensors" or (suffix in FORMATS and not has_index)
    (found.weights if is_read else found.side_files).append(name)
    if not is_read and (suffix in FORMATS or suffix in UNREAD):
        found.notes.append(Note.of(NoteKind.UNREAD, show_path(found.root.path / name)))
