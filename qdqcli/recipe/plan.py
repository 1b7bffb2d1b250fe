"""Plan: the decision on each tensor, from the headers alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from qdqcli.errors import InputError, UsageError
from qdqcli.escape import show_path
from qdqcli.op.spec import QuantSpec
from qdqcli.recipe.decision import Decision, Resolution, Skip
from qdqcli.recipe.file_ref import FileRef
from qdqcli.recipe.patterns import listed
from qdqcli.recipe.recipe import DEFAULT_MIN_NDIM, Context, Recipe, why_nothing, why_untouched
from qdqcli.result.result import Row, Source
from qdqcli.tensors.checkpoint import Checkpoint, Shard
from qdqcli.tensors.note import Note
from qdqcli.tensors.packed.format import CODES
from qdqcli.tensors.packed.inputs import decode_inputs
from qdqcli.tensors.packed.recognise import Packed, key_of, recognise_inputs
from qdqcli.tensors.tensor import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions for one shard."""

    checkpoint: Checkpoint
    shard: Shard
    file: FileRef
    """The shard, as reports show it and as patterns see it."""
    resolutions: Sequence[Resolution]
    """One resolution per tensor of the shard."""
    min_ndim: int = 0
    """Tensors with fewer dimensions are skipped where no rule says otherwise."""
    packed: Packed = field(default_factory=Packed)
    """The packed weights of the whole checkpoint."""

    @cached_property
    def decisions(self) -> Sequence[Decision]:
        """One decision per tensor of the shard."""
        return [resolution.decision for resolution in self.resolutions]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors of the shard."""
        return sum(tensor.nbytes for tensor in self.shard.tensors)

    @property
    def tensors(self) -> Iterator[tuple[TensorInfo, Decision]]:
        return zip(self.shard.tensors, (resolution.decision for resolution in self.resolutions), strict=True)

    def source_of(self, tensor: TensorInfo) -> Source:
        """Return the source of a tensor of the shard, for its row."""
        return Source(tensor.name, self.file.path, tensor.dtype.name, tensor.shape)


def make_plans(
    checkpoints: Sequence[Checkpoint],
    recipe: Recipe,
    packed: Sequence[Packed] | None = None,
    *,
    allow_unmatched: bool = False,
) -> tuple[list[Plan], list[str]]:
    """Decide on every tensor of every checkpoint; also returns warnings.

    `packed` holds the packed weights of each checkpoint, where they are known already.

    Raises:
        UsageError: the selection does not fit the checkpoints, see `Recipe.resolve`.
    """
    packed = packed if packed is not None else recognise_inputs(checkpoints)
    tensors = [tensor for checkpoint in checkpoints for tensor in checkpoint.tensors]
    context = context_of(checkpoints, packed)
    resolutions, warnings = recipe.resolve(tensors, context, allow_unmatched=allow_unmatched)
    remaining = iter(resolutions)
    shards = [(*pair, shard) for pair in zip(checkpoints, packed, strict=True) for shard in pair[0].shards]
    plans = [
        Plan(
            checkpoint=checkpoint,
            shard=shard,
            file=file,
            resolutions=list(islice(remaining, len(shard.tensors))),
            min_ndim=min_ndim if recipe.min_ndim is None else recipe.min_ndim,
            packed=own,
        )
        for (checkpoint, own, shard), (file, min_ndim) in zip(shards, context.shards, strict=True)
    ]
    return plans, warnings


def context_of(checkpoints: Sequence[Checkpoint], packed: Sequence[Packed]) -> Context:
    """Return the context of a recipe for the tensors of all checkpoints, in order."""
    files: list[FileRef] = []
    untouched: list[Skip | None] = []
    min_ndims: list[int] = []
    shards: list[tuple[FileRef, int]] = []
    for checkpoint, own in zip(checkpoints, packed, strict=True):
        # A .npy file, and an input without matrices or packed weights, hold what the user means to quantize.
        is_array = not checkpoint.is_folder and checkpoint.path.suffix.lower() == ".npy"
        has_matrix = any(t.dtype.is_floating and len(t.shape) >= DEFAULT_MIN_NDIM for t in checkpoint.tensors)
        min_ndim = DEFAULT_MIN_NDIM if (has_matrix or own.weights) and not is_array else 0
        known = _known_skips(checkpoint, own) if own.weights or own.activation_scales or checkpoint.superseded else {}
        for shard in checkpoint.shards:
            file = file_of(shard)
            shards.append((file, min_ndim))
            files += [file] * len(shard.tensors)
            min_ndims += [min_ndim] * len(shard.tensors)
            untouched += [
                (known.get(key_of(tensor)) if known else None)
                or (None if tensor.dtype.is_floating else why_untouched(tensor.dtype))
                for tensor in shard.tensors
            ]
    return Context(files=files, untouched=untouched, min_ndims=min_ndims, shards=shards)


def _known_skips(checkpoint: Checkpoint, packed: Packed) -> dict[tuple[str, str], Skip]:
    """Return the reasons to skip the parts of packed weights, and tensors that the index takes from another shard."""
    codes = {key_of(weight.parts[CODES]) for weight in packed.weights}
    found = {key: Skip(reason=reason, is_selected=key in codes) for key, reason in packed.reasons.items()}
    for key, shard in checkpoint.superseded.items():
        found[key] = Skip(reason=f"superseded: the index takes it from {shard}")
    return found


def settings_of(plans: Sequence[Plan], settings: Mapping[str, object]) -> Mapping[str, object]:
    """Return the settings for reports: with the effective `min_ndim`, or null where it differs between inputs."""
    if "min_ndim" not in settings:
        return settings
    found = {plan.min_ndim for plan in plans}
    return {**settings, "min_ndim": found.pop() if len(found) == 1 else None}


def packed_in_words(checkpoint: Checkpoint, packed: Packed) -> str:
    """Return the formats of a checkpoint's packed weights, for a message."""
    kinds = ", ".join(f"{count:,} weight{'s' * (count != 1)} in {title}" for title, count in packed.titles.items())
    return f"{show_path(checkpoint.path)}: already quantized: {kinds} ({listed(packed.names, 1)})"


def check_unpacked(checkpoint: Checkpoint, packed: Packed) -> None:
    """Check that no weight of the checkpoint is quantized already.

    Raises:
        InputError: names the formats.
    """
    if packed.weights:
        raise InputError(
            f"{packed_in_words(checkpoint, packed)}; qdq compare holds it against the original, qdq decode writes it "
            "in float, qdq stats --from-packed measures what it decodes to, --allow-packed only what is left in float"
        )


def decoded_inputs(checkpoints: Sequence[Checkpoint], dtype: str = "F32") -> list[Checkpoint]:
    """Return the checkpoints with their packed weights decoded.

    Raises:
        InputError: a weight is damaged, or in a format that is recognised but not decoded; says which.
    """
    views, packed = decode_inputs(checkpoints, dtype)
    for checkpoint, rest in zip(checkpoints, packed, strict=True):
        if rest.weights:
            problem = next((weight.problem for weight in rest.weights if weight.problem), "its codes are not decoded")
            raise InputError(f"{packed_in_words(checkpoint, rest)}: {problem}; 'qdq help packed' lists what is decoded")
    return views


def with_decisions(plans: Sequence[Plan], rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the place that decided each setting; rows have the order of the plans."""
    resolutions = (resolution for plan in plans for resolution in plan.resolutions)
    return [row._replace(decided_by=found.decided_by) for row, found in zip(rows, resolutions, strict=True)]


def check_selection(plans: Sequence[Plan]) -> None:
    """Check that some tensor is quantized.

    Raises:
        UsageError: none is; names the inputs and the reason.
    """
    if not any(isinstance(found.decision, QuantSpec) for plan in plans for found in plan.resolutions):
        why = why_nothing([decision for plan in plans for decision in plan.decisions])
        raise UsageError(f"{', '.join(inputs_of(plans))}: nothing to quantize: {why}")


def checkpoints_of(plans: Sequence[Plan]) -> list[Checkpoint]:
    """Return the unique checkpoints, in order."""
    return list({id(plan.checkpoint): plan.checkpoint for plan in plans}.values())


def inputs_of(plans: Sequence[Plan]) -> list[str]:
    """Return the unique input paths, as the user finds them."""
    return [show_path(path) for path in dict.fromkeys(plan.checkpoint.path for plan in plans)]


def notes_of(plans: Sequence[Plan]) -> list[Note]:
    """Return the unique notes of the inputs."""
    return list(dict.fromkeys(note for plan in plans for note in plan.checkpoint.notes))


def file_of(shard: Shard) -> FileRef:
    """Return the file of a shard."""
    return FileRef(show_path(shard.path), shard.name.count("/") + 1)
