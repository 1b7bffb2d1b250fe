"""Recognition of packed weights from a checkpoint's headers and configuration."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from qdqcli.escape import escape_name
from qdqcli.plain import Parsed
from qdqcli.tensors.checkpoint import Checkpoint, SideFile
from qdqcli.tensors.packed.declaration import (
    CONFIGS,
    Declaration,
    declaration_in_header,
    declarations,
    folder_of,
)
from qdqcli.tensors.packed.format import CODES, FLOATS, PackedFormat, PackedWeight
from qdqcli.tensors.packed.registry import PACKED
from qdqcli.tensors.path import is_file, real_path
from qdqcli.tensors.tensor import TensorInfo

Key = tuple[str, str]
"""Shard name and tensor name."""

_SUFFIXES = sorted({found.codes for found in PACKED}, key=len, reverse=True)
"""Suffixes of codes, longest first: the empty suffix matches every name."""

_FLOATING_CODES = tuple({found.codes for found in PACKED if set(found.dtypes) & set(FLOATS)})
"""Suffixes of codes that may be stored under a floating-point dtype."""

_CODE_DTYPES = ("U8", "I8", "I16", "U16", "I32", "U32")
_BUFFERS = ("bias", "mask", "_ids", "_index")
"""Name suffixes of integer buffers that are not codes: causal masks, positions."""
_LEVELS = 32
"""Maximum number of enclosing modules checked: a name may have 50,000 dots."""
_ACTIVATION = re.compile(
    r"(.*[._])?((k|v|q|kv|prob|input|output|activation)_scale|input_(global_scale|zero_point)|scale_input"
    r"|qscale_act|(activation|input)_scale_inv)"
)
"""Names of activation quantization parameters stored beside packed weights."""
ACTIVATION = "activation scale"


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The packed weights of one checkpoint; empty for an unquantized one."""

    weights: Sequence[PackedWeight] = ()
    activation_scales: Sequence[tuple[TensorInfo, PackedFormat]] = ()
    """Activation quantization parameters, each with the format of a weight beside it."""

    @cached_property
    def reasons(self) -> Mapping[Key, str]:
        """Reason why each tensor of a packed weight is not quantized."""
        parts = ((tensor, weight.format, role) for weight in self.weights for role, tensor in weight.parts.items())
        scales = ((tensor, found, ACTIVATION) for tensor, found in self.activation_scales)
        return {
            key_of(tensor): f"already quantized: {found.name} {role}"
            for source in (scales, parts)
            for tensor, found, role in source
        }

    @property
    def names(self) -> Sequence[str]:
        """Names of the weights in a float checkpoint."""
        return [weight.name for weight in self.weights]

    @property
    def titles(self) -> Mapping[str, int]:
        """Format with scale granularity -> number of weights, most frequent first."""
        counts: dict[str, int] = defaultdict(int)
        for weight in self.weights:
            counts[weight.title] += 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def may_hold_codes(checkpoints: Sequence[Checkpoint]) -> bool:
    """Tell whether any tensor may be codes or a buffer: usual checkpoints only hold weights in floating point."""
    return any(
        not tensor.dtype.is_floating or tensor.name.endswith(_FLOATING_CODES)
        for checkpoint in checkpoints
        for shard in checkpoint.shards
        for tensor in shard.tensors
    )


def recognise(checkpoint: Checkpoint) -> Packed:
    """Find the packed weights of a checkpoint.

    Names, dtypes and shapes of the tensors must match a format. A declared `quant_method` chooses between formats with
    the same tensors; with a declaration, codes in an unknown layout count too, together with their whole module.
    """
    suspects = [tensor for tensor in checkpoint.tensors if _may_be_codes(tensor)]
    if not suspects:
        return Packed()
    tensors = _Tensors(checkpoint)
    weights = [found._replace(config=tensors.config(codes)) for codes in suspects
               if (found := _weight_of(codes, tensors)) is not None]  # fmt: skip
    parts = {key_of(part) for weight in weights for role, part in weight.parts.items() if role != CODES}
    weights = [weight for weight in weights if key_of(weight.parts[CODES]) not in parts]
    parts |= {key_of(weight.parts[CODES]) for weight in weights}
    weights += _unknown([codes for codes in suspects if key_of(codes) not in parts], checkpoint, tensors)
    return Packed(weights=tuple(weights), activation_scales=tuple(_activation_scales(checkpoint, weights, tensors)))


def recognise_inputs(checkpoints: Sequence[Checkpoint]) -> list[Packed]:
    """Find the packed weights of each input.

    Files of one folder that are given one by one are recognised together, with the configuration beside them: codes may
    have their scales in another shard.
    """
    if not any(_may_be_codes(tensor) for checkpoint in checkpoints for tensor in checkpoint.tensors):
        return [Packed() for _ in checkpoints]
    together: dict[Path, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if not checkpoint.is_folder:
            together[_folder_beside(checkpoint)].append(checkpoint)
    found = {folder: recognise(as_folder(folder, files)) for folder, files in together.items()}
    return [
        recognise(checkpoint) if checkpoint.is_folder else _part_of(found[_folder_beside(checkpoint)], checkpoint)
        for checkpoint in checkpoints
    ]


def _folder_beside(checkpoint: Checkpoint) -> Path:
    return real_path(checkpoint.path.parent)


def as_folder(folder: Path, files: Sequence[Checkpoint]) -> Checkpoint:
    """Return single files as the folder that holds them, with its configuration."""
    shards = {shard.name: shard for checkpoint in files for shard in checkpoint.shards}
    configs = [SideFile(folder=folder, name=Path(name)) for name in CONFIGS if is_file(folder / name)]
    return Checkpoint(path=folder, is_folder=True, shards=tuple(shards.values()), side_files=configs)


def _part_of(packed: Packed, checkpoint: Checkpoint) -> Packed:
    """Return the weights, and the activation scales, with a part in this input."""
    shards = {shard.name for shard in checkpoint.shards}
    return Packed(
        weights=tuple(w for w in packed.weights if any(part.shard in shards for part in w.parts.values())),
        activation_scales=tuple(pair for pair in packed.activation_scales if pair[0].shard in shards),
    )


def key_of(tensor: TensorInfo) -> Key:
    """Return the tensor's key in `Packed.reasons`."""
    return tensor.shard, tensor.name


def _may_be_codes(tensor: TensorInfo) -> bool:
    if tensor.dtype.is_floating:
        return tensor.name.endswith(_FLOATING_CODES)
    return tensor.dtype.is_packed or tensor.dtype.name in _CODE_DTYPES


class _Tensors:
    """The tensors of a checkpoint by name, and the declared methods."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._folders = {shard.name: folder_of(shard) for shard in checkpoint.shards}
        self._declared = declarations(checkpoint)
        self._headers = {shard.name: declaration_in_header(shard) for shard in checkpoint.shards}
        self._found: dict[tuple[str, str], list[TensorInfo]] = defaultdict(list)
        for tensor in checkpoint.tensors:
            self._found[self._folders[tensor.shard], tensor.name].append(tensor)
        self.formats = _formats_among({name.rpartition(".")[2] for _, name in self._found})
        """Dtype of codes -> suffix of codes -> candidate formats."""

    def folder(self, tensor: TensorInfo) -> str:
        return self._folders[tensor.shard]

    def declaration(self, tensor: TensorInfo) -> Declaration | None:
        """Return the declaration of the file, its folder or the checkpoint."""
        return self._headers[tensor.shard] or self._declared.get(self.folder(tensor), self._declared.get(""))

    def method(self, tensor: TensorInfo) -> str | None:
        """Return the declared `quant_method` of the file, its folder or the checkpoint."""
        declared = self.declaration(tensor)
        return None if declared is None else declared.method

    def config(self, tensor: TensorInfo) -> Parsed:
        """Return the object that declares the quantization of the tensor's file; empty without one."""
        declared = self.declaration(tensor)
        return {} if declared is None else declared.config

    def find(self, name: str, beside: TensorInfo) -> TensorInfo | None:
        """Return the tensor of that name in the same file, else in the same folder."""
        found = self._found.get((self._folders[beside.shard], name))
        if found is None or len(found) == 1:
            return None if found is None else found[0]
        return next((tensor for tensor in found if tensor.shard == beside.shard), found[0])


def _formats_among(ends: Set[str]) -> Mapping[str, Mapping[str, Sequence[PackedFormat]]]:
    """Return the formats whose required parts may exist; `ends` are the last components of all tensor names.

    Rules out most formats once per checkpoint: a large one has 100,000 tensors of codes.
    """

    def may_be_there(suffix: str) -> bool:
        _, dot, end = suffix.rpartition(".")
        return end in ends if dot else any(name.endswith(suffix) for name in ends)

    there = {part.suffix: may_be_there(part.suffix) for known in PACKED for part in known.parts}
    possible = [known for known in PACKED if all(there[part.suffix] for part in known.parts if not part.is_optional)]
    found: dict[str, dict[str, list[PackedFormat]]] = defaultdict(lambda: {suffix: [] for suffix in _SUFFIXES})
    for known in possible:
        for dtype in known.dtypes:
            found[dtype][known.codes].append(known)
    return found


def _weight_of(codes: TensorInfo, tensors: _Tensors) -> PackedWeight | None:
    """Return the weight stored in `codes`: in the declared format if that fits, else in the first that does."""
    method = tensors.method(codes)
    first = None
    for suffix, formats in tensors.formats[codes.dtype.name].items():
        if not formats or not codes.name.endswith(suffix):
            continue
        for known in formats:
            is_declared = method in known.methods
            if (known.is_declared or first is not None) and not is_declared:
                continue
            found = _fitting(codes, known, tensors)
            if found is not None and is_declared:
                return found
            first = first or found
    return first


def _fitting(codes: TensorInfo, known: PackedFormat, tensors: _Tensors) -> PackedWeight | None:
    """Return the weight if the tensors match the format."""
    stem = codes.name.removesuffix(known.codes)
    parts = {CODES: codes}
    for part in known.parts:
        tensor = tensors.find(stem + part.suffix, codes)
        if tensor is not None and (part.is_optional or tensor.dtype.name in part.dtypes):
            parts[part.role] = tensor
        elif not part.is_optional:
            return None
    return PackedWeight(stem + known.weight, known, parts) if known.fits(parts) else None


def _unknown(suspects: Sequence[TensorInfo], checkpoint: Checkpoint, tensors: _Tensors) -> list[PackedWeight]:
    """Group codes of unknown formats under a declared method with every float tensor of their module except biases."""
    modules: dict[tuple[str, str], PackedWeight] = {}
    for codes in suspects:
        method = tensors.method(codes)
        is_buffer = codes.dtype.name == "F8_E8M0" or codes.name.endswith(_BUFFERS)
        if method is not None and len(codes.shape) > 1 and not is_buffer:
            name = codes.name.rpartition(".")[0] or codes.name
            layout = PackedFormat(name=f"{method}, unknown layout", codes="", dtypes=(codes.dtype.name,))
            weight = PackedWeight(name, layout, {CODES: codes}, problem=_problem(codes, method, tensors))
            if modules.setdefault((tensors.folder(codes), name), weight).problem is None:
                modules[tensors.folder(codes), name] = weight
    if not modules:
        return []
    found: dict[tuple[str, str], dict[str, TensorInfo]] = defaultdict(dict)
    for tensor in checkpoint.tensors:
        if tensor.dtype.is_floating and not tensor.name.endswith(".bias"):
            module = next(((tensors.folder(tensor), name) for name in islice(_modules_of(tensor.name), _LEVELS)
                           if (tensors.folder(tensor), name) in modules), None)  # fmt: skip
            if module is not None:
                found[module][tensor.name.removeprefix(f"{module[1]}.")] = tensor
    return [weight._replace(parts={**found[module], **weight.parts}) for module, weight in modules.items()]


def _problem(codes: TensorInfo, method: str, tensors: _Tensors) -> str | None:
    """Return why the codes fit no format of their declared method: the part that the nearest one misses."""
    reasons: list[tuple[int, str]] = []
    for known in PACKED:
        if method not in known.methods or codes.dtype.name not in known.dtypes or not codes.name.endswith(known.codes):
            continue
        stem = codes.name.removesuffix(known.codes)
        needed = {stem + part.suffix: part for part in known.parts if not part.is_optional}
        found = {name: tensors.find(name, codes) for name in needed}
        lost = [name for name, tensor in found.items() if tensor is None]
        wrong = [tensor for name, tensor in found.items() if tensor and tensor.dtype.name not in needed[name].dtypes]
        reason = "the shapes of its parts do not fit each other"
        if wrong:
            reason = f"'{escape_name(wrong[0].name)}' has dtype {wrong[0].dtype.name}"
        if lost:
            reason = f"there is no '{escape_name(lost[0])}'"
        reasons.append((len(lost) + len(wrong), f"'{escape_name(codes.name)}' is no {known.name}: {reason}"))
    return min(reasons)[1] if reasons else None


def _modules_of(name: str) -> Iterator[str]:
    """Yield the modules that contain a tensor, innermost first."""
    while name := name.rpartition(".")[0]:
        yield name


def _activation_scales(
    checkpoint: Checkpoint, weights: Sequence[PackedWeight], tensors: _Tensors
) -> Iterator[tuple[TensorInfo, PackedFormat]]:
    """Yield scales and zero points of activations in folders that have packed weights."""
    formats = {tensors.folder(weight.parts[CODES]): weight.format for weight in reversed(weights)}
    if not formats:
        return
    for tensor in checkpoint.tensors:
        if tensor.dtype.is_floating and _ACTIVATION.fullmatch(tensor.name):
            known = formats.get(tensors.folder(tensor))
            if known is not None:
                yield tensor, known
