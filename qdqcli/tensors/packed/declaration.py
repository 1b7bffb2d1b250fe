"""Quantization declared by a checkpoint: `quantization_config` and equivalent keys."""

from collections.abc import Iterator, Mapping

from qdqcli.errors import InputError
from qdqcli.escape import MalformedError
from qdqcli.tensors.checkpoint import Checkpoint, Shard, SideFile
from qdqcli.tensors.strict_json import parse_object

MAX_CONFIG_BYTES = 8 << 20
"""Limit on a configuration file; one with the settings of every layer of a large model has 2 MB."""

CONFIGS = ("hf_quant_config.json", "config.json", "quantize_config.json")
"""Configuration files by precedence: the first that declares a method wins."""

_MARKS = {"_quantization_metadata": "comfyui"}
"""Metadata key -> the method that it declares."""


def declared_methods(checkpoint: Checkpoint) -> Mapping[str, str]:
    """Map folders, relative to the checkpoint ("" is its root), to `quant_method` in lower case; `mlx` for MLX's key.

    An unreadable configuration is ignored: tensors are recognised without one.
    """
    found: dict[str, str] = {}
    side_files = {side_file.name.as_posix(): side_file for side_file in checkpoint.side_files}
    folders = {folder_of(shard) for shard in checkpoint.shards}
    for folder in folders:
        for name in CONFIGS:
            path = f"{folder}/{name}" if folder else name
            method = _method_of(side_files[path]) if path in side_files else None
            if method is not None:
                found[folder] = method
                break
    return found


def folder_of(shard: Shard) -> str:
    """Return the shard's folder within the checkpoint."""
    return shard.name.rpartition("/")[0]


def method_in_header(shard: Shard) -> str | None:
    """Return the method declared in the shard's own metadata."""
    return next((method for key, method in _MARKS.items() if key in shard.marks), None)


def _method_of(side_file: SideFile) -> str | None:
    config = _read(side_file)
    if side_file.name.name == "hf_quant_config.json":
        return "modelopt" if "quantization" in config else None
    if side_file.name.name == "quantize_config.json":
        return "gptq" if "bits" in config else None
    return next(_methods(config), None)


def _methods(config: Mapping[str, object]) -> Iterator[str]:
    """Yield the methods of the model and of its parts (`text_config`)."""
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for part in parts:
        for key in ("quantization_config", "compression_config", "quantization"):
            declared = part.get(key)
            if not isinstance(declared, Mapping):
                continue
            method = declared.get("quant_method")
            if isinstance(method, str):
                yield method.lower()
            elif "group_size" in declared and "bits" in declared:
                yield "mlx"


def _read(side_file: SideFile) -> Mapping[str, object]:
    try:
        with side_file.open() as file:
            return parse_object(file.read(0, file.size)) if file.size <= MAX_CONFIG_BYTES else {}
    except (InputError, MalformedError):
        return {}
