"""Inputs with their packed weights decoded; imports NumPy only where some are packed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qdqcli.escape import show_path
from qdqcli.tensors.checkpoint import Checkpoint, Shard
from qdqcli.tensors.gguf import GgufShard
from qdqcli.tensors.note import Note, NoteKind
from qdqcli.tensors.packed.declaration import check_configs, declarations
from qdqcli.tensors.packed.format import CODES
from qdqcli.tensors.packed.recognise import Packed, as_folder, recognise_inputs
from qdqcli.tensors.path import real_path


def decode_inputs(checkpoints: Sequence[Checkpoint], dtype: str = "F32") -> tuple[list[Checkpoint], list[Packed]]:
    """Return the decoded view of each input, and its weights in a format that is recognised but not decoded.

    Raises:
        InputError: the parts of a weight contradict each other; names the tensor. Or the configuration of packed
            weights cannot be read; names the file.
    """
    packed = recognise_inputs(checkpoints)
    for checkpoint, own in zip(checkpoints, packed, strict=True):
        if own.weights:
            check_configs(checkpoint if checkpoint.is_folder else as_folder(_folder(checkpoint), [checkpoint]))
    has_gguf = any(isinstance(shard, GgufShard) for checkpoint in checkpoints for shard in checkpoint.shards)
    if not has_gguf and not any(own.weights for own in packed):
        return [_noted(*pair) for pair in zip(checkpoints, packed, strict=True)], packed
    from qdqcli.tensors.packed.decoded import decode

    shards: dict[Path, dict[str, Shard]] = {}
    for checkpoint in checkpoints:
        shards.setdefault(_folder(checkpoint), {}).update({shard.name: shard for shard in checkpoint.shards})
    views = [
        decode(checkpoint, own, shards[_folder(checkpoint)], dtype)
        for checkpoint, own in zip(checkpoints, packed, strict=True)
    ]
    noted = (_noted(view, own) for (view, _), own in zip(views, packed, strict=True))
    return list(noted), [rest for _, rest in views]


def _noted(view: Checkpoint, packed: Packed) -> Checkpoint:
    """Return the view with a note on each folder whose configuration declares packed weights that are not there."""
    folders = {weight.parts[CODES].shard.rpartition("/")[0] for weight in packed.weights}
    found = [
        Note.of(NoteKind.NOT_PACKED, show_path(view.path / folder), other=declared.method)
        for folder, declared in declarations(view).items()
        if folder not in folders
    ]
    return replace(view, notes=[*view.notes, *found]) if found else view


def _folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of an input: files of one folder hold parts of each other's weights."""
    return real_path(checkpoint.path if checkpoint.is_folder else checkpoint.path.parent)
