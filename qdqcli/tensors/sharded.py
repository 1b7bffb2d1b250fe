"""A folder as a checkpoint: which of its files hold tensors, and whether an index and its shards agree.

In each folder, at every depth: where there is an index (`*.safetensors.index.json`), the shards that it names;
otherwise every file of a known format. Everything else is a side file and copied as it is: configurations, tokenizers,
the index, `.npy` files beside an index, weights in formats that are not read. Two things are left out, with a note: a
`.safetensors` file that the index does not name, and what is not part of a checkpoint (`.git`, `.cache`, links to
folders). Without an index one tensor name may come in several files; the file tells them apart.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import FORMATS, Checkpoint, Shard, open_file, void_notes
from qdqcli.tensors.storage import InputFile, input_error
from qdqcli.tensors.strict_json import parse_object

INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
"""The largest index reported in the wild has 17 MB (colibri#1480)."""

_SKIPPED_FOLDERS = (".git", ".cache")
"""Made by `git clone` and `hf download` beside a checkpoint; `.git` holds the weights a second time."""

_UNREAD_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")


@dataclass(kw_only=True)
class _Findings:
    """What a walk through the folder has found so far; names are relative to it."""

    weights: list[str] = field(default_factory=list)
    side_files: list[str] = field(default_factory=list)
    indexes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Name of an index -> tensor -> name of its shard."""
    notes: list[str] = field(default_factory=list)


def open_folder(path: Path, void_dtype: str | None = None) -> Checkpoint:
    """Read an index and all headers of the checkpoint in the folder at `path`.

    Raises:
        InputError: nothing to read, or something malformed; names the index or the shard.
    """
    found = _walk(path)
    if not found.weights:
        raise InputError(
            f"{show_path(path)}: no checkpoint in this folder; looked for *{INDEX_SUFFIX} and for "
            + ", ".join(f"*{suffix}" for suffix in FORMATS)
        )
    shards = [open_file(path / name, name, void_dtype) for name in sorted(found.weights)]
    superseded = dict(_check_indexes(path, found.indexes, shards))
    notes = [*found.notes, *_index_notes(found.indexes, shards, superseded)]
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
    indexes = [name for name in files if name.endswith(INDEX_SUFFIX)]
    listed: set[str] = set()
    for name in indexes:
        index = _read_index(root / prefix / name)
        found.indexes[prefix + name] = {tensor: prefix + shard for tensor, shard in index.items()}
        listed.update(index.values())
    found.weights += [prefix + name for name in listed]
    for name in files:
        if name not in listed:
            _sort_file(prefix + name, found, has_index=bool(indexes))


def _list(root: Path, prefix: str, found: _Findings) -> tuple[list[str], list[str]]:
    """The folders to enter and the files, sorted; what is left out gets its note."""
    folders, files = [], []
    try:
        with os.scandir(root / prefix) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if not entry.is_dir() or entry.name.endswith(INDEX_SUFFIX):
                    files.append(entry.name)
                elif entry.is_symlink() or entry.name in _SKIPPED_FOLDERS:
                    why = "a link to a folder" if entry.is_symlink() else "not part of a checkpoint"
                    found.notes.append(f"{escape_name(prefix + entry.name)}: not copied: {why}")
                else:
                    folders.append(entry.name)
    except OSError as error:
        raise input_error(Path(error.filename) if error.filename else root / prefix, error) from error
    return folders, files


def _sort_file(name: str, found: _Findings, *, has_index: bool) -> None:
    """Put a file that no index names where it belongs."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - names, not paths
    if has_index and suffix == ".safetensors":
        found.notes.append(f"{escape_name(name)}: neither read nor copied: the index does not name it")
    elif suffix in FORMATS and not has_index:
        found.weights.append(name)
    else:
        found.side_files.append(name)
        if suffix in FORMATS or suffix in _UNREAD_WEIGHTS:
            found.notes.append(f"{escape_name(name)}: copied as it is, tensors in it are not quantized")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard name, as an index says."""
    with InputFile(path) as file, blame(path):
        if file.size > MAX_INDEX_BYTES:
            raise MalformedError(f"has {file.size} bytes; an index of at most {MAX_INDEX_BYTES} is read")
        weight_map = _parse_index(file.read(0, file.size)).get("weight_map")
        if not isinstance(weight_map, dict):
            raise MalformedError("has no object weight_map; is it an index?")
        if not weight_map:
            raise MalformedError("has an empty weight_map; remove the index to read every file")
        for tensor, shard in weight_map.items():
            _check_shard_name(tensor, shard)
        for shard in sorted(set(weight_map.values())):
            if not os.path.lexists(path.parent / shard):
                raise MalformedError(
                    f"names the shard '{escape_name(shard)}', which is not there; the download may be incomplete"
                )
        return weight_map


def _parse_index(data: bytes) -> dict[str, object]:
    try:
        return parse_object(data)
    except MalformedError as error:
        raise MalformedError(f"{error}; download the index again, or remove it to read every file") from error


def _check_shard_name(tensor: str, shard: object) -> None:
    """One component that ends in `.safetensors`. Lexical: resolving links would refuse the Hub's cache."""
    if not isinstance(shard, str):
        raise MalformedError(
            f"maps tensor '{escape_name(tensor)}' to {escape_name(repr(shard), 40)}, not to a file name"
        )
    is_safe = not any(char in shard for char in "/\\\0") and len(os.fsencode(shard)) <= 255
    if not is_safe or not shard.endswith(".safetensors") or shard == ".safetensors":
        raise MalformedError(
            f"maps tensor '{escape_name(tensor)}' to '{escape_name(shard)}', which is not the name of a .safetensors "
            "file in the same folder"
        )


def _check_indexes(
    path: Path, indexes: Mapping[str, Mapping[str, str]], shards: Sequence[Shard]
) -> Iterator[tuple[tuple[str, str], str]]:
    """Check that every shard holds what an index says of it; the superseded tensors, as in `Checkpoint`."""
    held = {shard.name: {tensor.name for tensor in shard.tensors} for shard in shards if indexes}
    for index_name, index in indexes.items():
        for tensor, shard_name in index.items():
            if tensor not in held[shard_name]:
                raise InputError(
                    f"{show_path(path / index_name)}: says that tensor '{escape_name(tensor)}' is in "
                    f"'{escape_name(shard_name)}', which does not hold it; index and shards do not belong together"
                )
        for shard_name in sorted(set(index.values())):
            for tensor in sorted(held[shard_name] & index.keys()):
                if index[tensor] != shard_name:
                    yield (shard_name, tensor), index[tensor]


def _index_notes(
    indexes: Mapping[str, Mapping[str, str]], shards: Sequence[Shard], superseded: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    """Notes on tensors that an index does not name, one for each shard, and on those that do not count."""
    named: dict[str, set[str]] = {}
    for index in indexes.values():
        for shard_name in set(index.values()):
            named.setdefault(shard_name, set()).update(index)
    for shard in shards:
        if shard.name not in named:
            continue
        unnamed = [tensor.name for tensor in shard.tensors if tensor.name not in named[shard.name]]
        if unnamed:
            names = ", ".join(f"'{escape_name(name, 60)}'" for name in unnamed[:3])
            yield f"{escape_name(shard.name)}: {len(unnamed)} tensor(s) that the index does not name are kept: {names}"
    for (shard_name, tensor), counts in superseded.items():
        yield f"{escape_name(shard_name)}: tensor '{escape_name(tensor)}' is superseded by '{escape_name(counts)}'"
