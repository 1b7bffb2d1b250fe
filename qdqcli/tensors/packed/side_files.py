"""Side files of a decoded checkpoint: the configuration without its quantization, the index with the decoded names."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from qdqcli.errors import InputError
from qdqcli.escape import escape_name, show_path
from qdqcli.plain import JsonObject, Parsed
from qdqcli.tensors.checkpoint import Checkpoint, Shard, SideFile
from qdqcli.tensors.index import MAX_INDEX_BYTES, is_index
from qdqcli.tensors.input_file import InputFile
from qdqcli.tensors.packed.declaration import DECLARING_KEYS, read_object

_DROPPED = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files that hold nothing but a declaration of the quantization."""
_TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@contextmanager
def rewritten(view: Checkpoint, dtype: str) -> Iterator[Checkpoint]:
    """Yield the decoded view with side files that describe it, kept in a temporary folder.

    Their modification times are those of the originals, by which an interrupted run is recognised.
    """
    with TemporaryDirectory(prefix="qdq-decode-") as folder:
        yield replace(view, side_files=list(_rewritten(view, dtype, Path(folder))))


def _rewritten(view: Checkpoint, dtype: str, folder: Path) -> Iterator[SideFile]:
    for side_file in view.side_files:
        name = side_file.name
        if name.name in _DROPPED:
            continue
        if name.name == "config.json":
            data = _config(read_object(side_file), dtype)
        elif is_index(name.name):
            data = _index(read_object(side_file, MAX_INDEX_BYTES), view, name.parent)
        else:
            yield side_file
            continue
        yield _written(folder, name, data, side_file)
    if len(view.shards) > 1 and all(shard.output_name != shard.name for shard in view.shards):
        names = {tensor.name: shard.output_name for shard in view.shards for tensor in shard.tensors}
        yield _written(folder, Path("model.safetensors.index.json"), {"weight_map": names}, view.shards[0])


def _written(folder: Path, name: Path, data: Parsed, original: SideFile | Shard) -> SideFile:
    """Return a side file with the modification time of the file that it is made of."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    with original.open() if isinstance(original, SideFile) else InputFile(original.path) as file:
        os.utime(path, ns=(file.identity.mtime_ns, file.identity.mtime_ns))
    return SideFile(folder=folder, name=name)


def _config(config: Parsed, dtype: str) -> JsonObject:
    """Return a configuration, and those of the model's parts, without quantization and with the dtype."""
    kept = {key: value for key, value in config.items() if key not in DECLARING_KEYS}
    for key, value in kept.items():
        if key in ("torch_dtype", "dtype") and isinstance(value, str):
            kept[key] = _TORCH[dtype]
        elif isinstance(value, dict):
            kept[key] = _config(value, dtype)
    return kept


def _index(index: Parsed, view: Checkpoint, folder: Path) -> JsonObject:
    """Return the index with the tensors that its shards have now.

    Raises:
        InputError: two shards have a tensor of one name, in float and packed.
    """
    listed: Sequence[str] = list(dict.fromkeys(index["weight_map"].values()))
    shards = {str(folder / name): name for name in listed}
    found = [
        (tensor, shards[shard.name])
        for shard in view.shards
        if shard.name in shards
        for tensor in shard.tensors
        if (shard.name, tensor.name) not in view.superseded
    ]
    names: dict[str, str] = {}
    for tensor, shard in found:
        if names.setdefault(tensor.name, shard) != shard:
            where = f"is in {escape_name(names[tensor.name])} and in {escape_name(shard)}"
            raise InputError(
                f"{show_path(view.path)}: tensor '{escape_name(tensor.name)}' {where}: in float, and packed; one of "
                "them must go"
            )
    size = {"total_size": sum(tensor.nbytes for tensor, _ in found)}
    metadata = index.get("metadata")
    return {
        **index,
        "metadata": {**metadata, **size} if isinstance(metadata, Mapping) else size,
        "weight_map": dict(sorted(names.items())),
    }
