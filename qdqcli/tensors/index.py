"""Index of a sharded checkpoint: the shard of each tensor, checked against the shards.

An index is `STEM.safetensors.index.json`, optionally with a variant's name at either position: transformers and
diffusers write `model.safetensors.index.fp16.json` and `model.fp16.safetensors.index.json`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import Shard
from qdqcli.tensors.input_file import FileIdentity, InputFile
from qdqcli.tensors.note import MAX_NAMES, Note, NoteKind
from qdqcli.tensors.path import lexists
from qdqcli.tensors.strict_json import parse_object

INDEX_PATTERN = "*.safetensors.index*.json"
"""Pattern shown in messages."""
MAX_INDEX_BYTES = 32 << 20
"""Limit on an index; the largest reported in the wild has 17 MB (colibri#1480)."""

Index = Mapping[str, str]
"""Tensor name -> shard name."""

_INDEX = re.compile(r"(?P<stem>.+)\.safetensors\.index(?P<variant>.*)\.json", re.DOTALL)
_NUMBERED = re.compile(
    r"(?P<stem>.+?[-_.])(?P<number>\d+)(?P<of>[-_]of[-_])(?P<total>\d+)(?P<variant>(\.[^.]+)?)\.safetensors", re.DOTALL
)


def is_index(name: str) -> bool:
    """Tell whether a file of this name is an index."""
    return _INDEX.fullmatch(name) is not None


def read_index(path: Path, identity: FileIdentity) -> Index:
    """Read the index at `path` and check that its shards exist beside it; `identity` is the expected file identity.

    Raises:
        InputError: unreadable, malformed, or a shard is missing; names the index.
    """
    with InputFile(path, expected=identity) as file, blame(path):
        if file.size > MAX_INDEX_BYTES:
            raise MalformedError(f"has {file.size} bytes; an index of at most {MAX_INDEX_BYTES} is read")
        weight_map = _parse(file.read(0, file.size)).get("weight_map")
        if not isinstance(weight_map, dict):
            raise MalformedError("has no object weight_map; is it an index?")
        if not weight_map:
            raise MalformedError("has an empty weight_map; remove the index to read every file")
        for tensor, shard in weight_map.items():
            _check_shard_name(tensor, shard)
        for shard in sorted(set(weight_map.values())):
            if not lexists(path.parent / shard):
                raise MalformedError(
                    f"names the shard '{escape_name(shard)}', which is not there; the download may be incomplete"
                )
        return weight_map


def check_indexes(
    path: Path, indexes: Mapping[str, Index], shards: Sequence[Shard]
) -> Iterator[tuple[tuple[str, str], str]]:
    """Check that every shard holds the tensors an index assigns to it; yield `Checkpoint.superseded` entries.

    `indexes` are keyed by name; names of indexes and shards are relative to the folder at `path`.

    Raises:
        InputError: a shard does not hold a tensor; names the index.
    """
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
                if all(other.get(tensor) != shard_name for other in indexes.values()):
                    yield (shard_name, tensor), index[tensor]


def notes_on_tensors(
    path: Path, indexes: Mapping[str, Index], shards: Sequence[Shard], superseded: Mapping[tuple[str, str], str]
) -> Iterator[Note]:
    """Yield notes on tensors of listed shards that are unindexed or superseded; arguments as in `check_indexes`."""
    named: dict[str, set[str]] = {}
    for index in indexes.values():
        for shard_name in set(index.values()):
            named.setdefault(shard_name, set()).update(index)
    for shard in shards:
        known = named.get(shard.name)
        unnamed = [] if known is None else [tensor.name for tensor in shard.tensors if tensor.name not in known]
        if unnamed:
            yield Note.of(NoteKind.UNINDEXED, show_path(path / shard.name), unnamed)
    groups: dict[tuple[str, str], list[str]] = {}
    for (shard_name, tensor), other in superseded.items():
        groups.setdefault((shard_name, other), []).append(tensor)
    for (shard_name, other), tensors in groups.items():
        yield Note.of(NoteKind.SUPERSEDED, show_path(path / shard_name), tensors, other)


def notes_on_names(folder: Path, indexes: Iterable[str], files: Sequence[str], listed: set[str]) -> Iterator[Note]:
    """Yield notes on a folder's file names: missing shards, and other checkpoints beside the listed one.

    `listed` are the files that one of the `indexes` names.
    """
    rest = [name for name in files if name not in listed]
    groups, unlisted = _numbered(files), _numbered(rest)
    wholes = {
        f"{stem[:-1]}{variant}.safetensors": min(found.values()) for (stem, _, _, variant), found in unlisted.items()
    }
    for name in indexes:
        if match := _INDEX.fullmatch(name):
            wholes[f"{match['stem']}{match['variant']}.safetensors"] = name
    for name in rest:
        if name in wholes:
            yield Note.of(NoteKind.STALE, show_path(folder / name), other=wholes[name])
        elif listed and name.endswith(".safetensors"):
            yield Note.of(NoteKind.UNLISTED, show_path(folder / name))
    for key in unlisted:  # an index lists the others completely
        yield from _missing_shards(folder, key, groups[key])


def _numbered(names: Iterable[str]) -> dict[tuple[str, str, str, str], dict[int, str]]:
    """Group the numbered shards among the names: (stem, of, total, variant) -> number -> name."""
    groups: dict[tuple[str, str, str, str], dict[int, str]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            key = match["stem"], match["of"], match["total"], match["variant"]
            groups.setdefault(key, {})[int(match["number"])] = name
    return groups


def _missing_shards(folder: Path, key: tuple[str, ...], found: Mapping[int, str]) -> Iterator[Note]:
    """Yield a note if numbered shards are missing; numbering starts at 1, or at 0 if there is a shard 0."""
    stem, of, total, variant = key
    first = 0 if 0 in found else 1
    num_missing = int(total) - sum(first <= number < first + int(total) for number in found)
    if num_missing > 0:
        width = len(total)
        missing = islice((number for number in count(first) if number not in found), min(num_missing, MAX_NAMES))
        names = tuple(f"{stem}{number:0{width}}{of}{total}{variant}.safetensors" for number in missing)
        yield Note(NoteKind.INCOMPLETE, show_path(folder / min(found.values())), names, num_missing)


def _parse(data: bytes) -> dict[str, object]:
    try:
        return parse_object(data)
    except MalformedError as error:
        raise MalformedError(f"{error}; download the index again, or remove it to read every file") from error


def _check_shard_name(tensor: str, shard: object) -> None:
    """Require a single path component ending in `.safetensors`; link targets are checked elsewhere."""
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
