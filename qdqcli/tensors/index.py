"""The index of a sharded checkpoint: which shard holds which tensor, and whether the shards agree.

An index is `STEM.safetensors.index.json`, also with a variant's name in it, at either place: transformers and diffusers
write `model.safetensors.index.fp16.json` and `model.fp16.safetensors.index.json`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame, escape_name, show_path
from qdqcli.tensors.checkpoint import Shard
from qdqcli.tensors.note import MAX_NAMES, Note, NoteKind
from qdqcli.tensors.storage import FileIdentity, InputFile
from qdqcli.tensors.strict_json import parse_object

INDEX_PATTERN = "*.safetensors.index*.json"
"""For messages."""
MAX_INDEX_BYTES = 32 << 20
"""The largest index reported in the wild has 17 MB (colibri#1480)."""

Index = Mapping[str, str]
"""Tensor -> the name of its shard."""

_INDEX = re.compile(r"(?P<stem>.+)\.safetensors\.index(?P<variant>.*)\.json", re.DOTALL)
_NUMBERED = re.compile(
    r"(?P<stem>.+?[-_.])(?P<number>\d+)(?P<of>[-_]of[-_])(?P<total>\d+)(?P<variant>(\.[^.]+)?)\.safetensors", re.DOTALL
)


def is_index(name: str) -> bool:
    """Whether a file of this name is an index."""
    return _INDEX.fullmatch(name) is not None


def read_index(path: Path, identity: FileIdentity) -> Index:
    """Read the index at `path`, whose shards must be there beside it; `identity` is that of the file.

    Raises:
        InputError: unreadable, malformed, or a shard is not there; names the index.
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
            if not os.path.lexists(path.parent / shard):
                raise MalformedError(
                    f"names the shard '{escape_name(shard)}', which is not there; the download may be incomplete"
                )
        return weight_map


def check_indexes(
    path: Path, indexes: Mapping[str, Index], shards: Sequence[Shard]
) -> Iterator[tuple[tuple[str, str], str]]:
    """Check that every shard holds what an index says of it; the superseded tensors, as in `Checkpoint`.

    `indexes` are by their names, which like those of shards are relative to the folder at `path`.

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
    """Notes on the tensors of listed shards that no index names, and on those that do not count; arguments as above."""
    named: dict[str, set[str]] = {}
    for index in indexes.values():
        for shard_name in set(index.values()):
            named.setdefault(shard_name, set()).update(index)
    for shard in shards:
        unnamed = [tensor.name for tensor in shard.tensors if tensor.name not in named.get(shard.name, (tensor.name,))]
        if unnamed:
            yield Note.of(NoteKind.UNINDEXED, show_path(path / shard.name), unnamed)
    groups: dict[tuple[str, str], list[str]] = {}
    for (shard_name, tensor), other in superseded.items():
        groups.setdefault((shard_name, other), []).append(tensor)
    for (shard_name, other), tensors in groups.items():
        yield Note.of(NoteKind.SUPERSEDED, show_path(path / shard_name), tensors, other)


def notes_on_names(folder: Path, indexes: Iterable[str], files: Iterable[str], listed: set[str]) -> Iterator[Note]:
    """Notes on what the names of a folder's files say: shards that are missing, other checkpoints beside them.

    `listed` are the files that one of the `indexes` names.
    """
    rest = [name for name in files if name not in listed]
    groups: dict[tuple[str, str, str, str], dict[int, str]] = {}
    for name in rest:
        if match := _NUMBERED.fullmatch(name):
            groups.setdefault((match["stem"], match["of"], match["total"], match["variant"]), {})[
                int(match["number"])
            ] = name
    wholes = {
        f"{stem[:-1]}{variant}.safetensors": min(found.values()) for (stem, _, _, variant), found in groups.items()
    }
    for name in indexes:
        if match := _INDEX.fullmatch(name):
            wholes[f"{match['stem']}{match['variant']}.safetensors"] = name
    for name in rest:
        if name in wholes:
            yield Note.of(NoteKind.STALE, show_path(folder / name), other=wholes[name])
        elif listed and name.endswith(".safetensors"):
            yield Note.of(NoteKind.UNLISTED, show_path(folder / name))
    for key, found in groups.items():
        yield from _missing_shards(folder, key, found)


def _missing_shards(folder: Path, key: tuple[str, ...], found: Mapping[int, str]) -> Iterator[Note]:
    """A note where not all of the numbered shards are there; they are counted from 1, or from 0 where there is a 0."""
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
    """One component that ends in `.safetensors`: where it leads is for links to say."""
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
