"""Quantization declared by a checkpoint: `quantization_config` and equivalent keys."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError, blame
from qdqcli.plain import Parsed
from qdqcli.tensors.checkpoint import Checkpoint, Shard, SideFile
from qdqcli.tensors.strict_json import parse_object

MAX_CONFIG_BYTES = 8 << 20
"""Limit on a configuration file; one with the settings of every layer of a large model has 2 MB."""

CONFIGS = ("hf_quant_config.json", "config.json", "quantize_config.json")
"""Configuration files by precedence: the first that declares a method wins."""

DECLARING_KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of `config.json` whose object declares the quantization."""

_MARKS = {"_quantization_metadata": "comfyui"}
"""Metadata key -> the method that it declares."""


class Declaration(NamedTuple):
    """Quantization of a checkpoint, as its configuration declares it."""

    method: str
    """`quant_method` in lower case; `mlx` for MLX's key."""
    config: Parsed = MappingProxyType({})
    """The object that declares it."""


def declarations(checkpoint: Checkpoint) -> Mapping[str, Declaration]:
    """Map folders, relative to the checkpoint ("" is its root), to what their configuration declares.

    An unreadable configuration is ignored: tensors are recognised without one.
    """
    found: dict[str, Declaration] = {}
    side_files = {side_file.name.as_posix(): side_file for side_file in checkpoint.side_files}
    folders = {folder_of(shard) for shard in checkpoint.shards}
    for folder in folders:
        for name in CONFIGS:
            path = f"{folder}/{name}" if folder else name
            declared = _declaration_of(side_files[path]) if path in side_files else None
            if declared is not None:
                found[folder] = declared
                break
    return found


def folder_of(shard: Shard) -> str:
    """Return the shard's folder within the checkpoint."""
    return shard.name.rpartition("/")[0]


def declaration_in_header(shard: Shard) -> Declaration | None:
    """Return the declaration in the shard's own metadata."""
    return next((Declaration(method) for key, method in _MARKS.items() if key in shard.marks), None)


def _declaration_of(side_file: SideFile) -> Declaration | None:
    config = _read(side_file)
    if side_file.name.name == "hf_quant_config.json":
        declared = config.get("quantization")
        return Declaration("modelopt", declared) if isinstance(declared, Mapping) else None
    if side_file.name.name == "quantize_config.json":
        return Declaration("gptq", config) if "bits" in config else None
    return next(_declarations(config), None)


def _declarations(config: Parsed) -> Iterator[Declaration]:
    """Yield the declarations of the model and of its parts (`text_config`)."""
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for part in parts:
        for key in DECLARING_KEYS:
            declared = part.get(key)
            if not isinstance(declared, Mapping):
                continue
            method = declared.get("quant_method")
            if isinstance(method, str):
                yield Declaration(method.lower(), declared)
            elif "group_size" in declared and "bits" in declared:
                yield Declaration("mlx", declared)


def check_configs(checkpoint: Checkpoint) -> None:
    """Check that the configurations beside shards can be read: how packed weights are decoded depends on them.

    Raises:
        InputError: one is unreadable, malformed or too large; names it.
    """
    folders = {folder_of(shard) for shard in checkpoint.shards}
    for side_file in checkpoint.side_files:
        if side_file.name.name in CONFIGS and side_file.name.as_posix().rpartition("/")[0] in folders:
            read_object(side_file)


def read_object(side_file: SideFile, limit: int = MAX_CONFIG_BYTES) -> Parsed:
    """Return the object in a JSON file, by default a configuration.

    Raises:
        InputError: it is unreadable, malformed or larger than `limit` bytes.
    """
    with side_file.open() as file, blame(side_file.path):
        if file.size > limit:
            raise MalformedError(f"has {file.size} bytes; at most {limit} are read")
        return parse_object(file.read(0, file.size))


def _read(side_file: SideFile) -> Parsed:
    try:
        return read_object(side_file)
    except InputError:
        return {}
